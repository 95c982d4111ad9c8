"""The smallest JSON for simple schemas; what cannot be satisfied is refused."""

from typing import Any

import pytest

from serving.scripted.minimal import UnsupportedSchemaError, minimal


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}}, {"a": "", "b": 0}),
        ({"type": "object", "required": ["x"]}, {"x": {}}),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [True, True]),
        ({"type": "string", "minLength": 3}, "aaa"),
        ({"type": "string", "format": "date"}, "2026-01-01"),
        ({"enum": ["赤", "青"]}, "赤"),
        ({"const": 5}, 5),
        ({"type": "integer", "minimum": 3}, 3),
        ({"type": "integer", "exclusiveMinimum": 3}, 4),
        ({"type": "number", "maximum": -2.5}, -2.5),
        ({"type": ["null", "string"]}, None),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, 0),
        ({"allOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"b": {"const": 2}}}]}, {"a": 1, "b": 2}),
        ({"$ref": "#/$defs/p", "$defs": {"p": {"type": "boolean"}}}, True),
        (True, {}),
    ],
)
def test_a_simple_schema_is_satisfied(schema: Any, value: Any) -> None:
    assert minimal(schema) == value


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^a+$"},
        {"not": {"type": "string"}},
        {"$ref": "https://example.jp/schema"},
        {"$ref": "#/$defs/missing"},
        {"$ref": "#"},
        {"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}},
        {"type": "tuple"},
        False,
    ],
)
def test_a_schema_beyond_it_is_refused(schema: Any) -> None:
    with pytest.raises(UnsupportedSchemaError):
        minimal(schema)
