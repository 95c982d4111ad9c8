"""The smallest JSON that satisfies a simple JSON schema, for ``response_format`` and forced tool calls.

Enough of JSON Schema for tests of structured output: type, properties, items, enum, const, anyOf/oneOf, allOf of
objects, local $ref, bounds on numbers, lengths of strings and arrays. What it cannot satisfy (``pattern``, ``not``,
``multipleOf``, …) is refused rather than answered wrongly.
"""

import math
from typing import Any

DEPTH_MAX = 32
REFUSED = ("pattern", "not", "if", "patternProperties", "multipleOf")
FORMATS = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "email": "a@example.jp",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "uri": "https://example.jp/",
}


class UnsupportedSchemaError(ValueError):
    """A schema beyond what this engine can satisfy; the text says which part."""


def minimal(schema: Any, root: Any = None, depth: int = 0) -> Any:
    """A value that satisfies ``schema``. Raises :class:`UnsupportedSchemaError`."""
    root = schema if root is None else root
    if schema is True or schema == {}:
        return {}
    if not isinstance(schema, dict) or depth > DEPTH_MAX:
        raise UnsupportedSchemaError("the schema is not an object, is false, or nests without end")
    for keyword in REFUSED:
        if keyword in schema:
            raise UnsupportedSchemaError(f"the schema keyword {keyword} is beyond the scripted engine")
    if "const" in schema or schema.get("enum"):
        return schema["const"] if "const" in schema else schema["enum"][0]
    if schema.get("allOf"):
        return _merged([minimal(part, root, depth + 1) for part in schema["allOf"]])
    other = _resolve(schema["$ref"], root) if "$ref" in schema else _first_alternative(schema)
    return _typed(schema, root, depth) if other is None else minimal(other, root, depth + 1)


def _first_alternative(schema: dict[str, Any]) -> Any:
    alternatives = schema.get("anyOf") or schema.get("oneOf")
    return alternatives[0] if alternatives else None


def _typed(schema: dict[str, Any], root: Any, depth: int) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "array" if "items" in schema else "null")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    if kind == "object":
        properties = schema.get("properties") or {}
        names = [*properties, *(name for name in schema.get("required") or [] if name not in properties)]
        return {name: minimal(properties.get(name, True), root, depth + 1) for name in names}
    if kind == "array":
        return [minimal(schema.get("items", True), root, depth + 1) for _ in range(schema.get("minItems", 0))]
    if kind == "string":
        return FORMATS.get(schema.get("format", ""), "").ljust(schema.get("minLength", 0), "a")
    if kind in ("integer", "number"):
        return _number(schema, whole=kind == "integer")
    if kind in ("boolean", "null"):
        return {"boolean": True, "null": None}[kind]
    raise UnsupportedSchemaError(f"the schema type {kind!r} is unknown")


def _number(schema: dict[str, Any], *, whole: bool) -> float:
    """Zero when it fits, else the value nearest to it inside the bounds."""
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    step = 1 if whole else 0.5
    low = max(low, schema.get("exclusiveMinimum", -math.inf) + step)
    high = min(high, schema.get("exclusiveMaximum", math.inf) - step)
    value = float(min(max(0, low), high))
    return math.ceil(value) if whole or value.is_integer() else value


def _resolve(reference: str, root: Any) -> Any:
    if not reference.startswith("#/"):
        raise UnsupportedSchemaError(f"the reference {reference} is not local")
    found = root
    for part in reference[2:].split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, dict) or name not in found:
            raise UnsupportedSchemaError(f"the reference {reference} leads nowhere")
        found = found[name]
    return found


def _merged(parts: list[Any]) -> Any:
    if all(isinstance(part, dict) for part in parts):
        return {name: value for part in parts for name, value in part.items()}
    return parts[0]
