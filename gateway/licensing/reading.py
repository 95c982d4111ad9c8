"""Reads a licence document as people write it: JSON, or YAML without its surprises."""

import re
from collections.abc import Iterator
from typing import Any

import jiter
import yaml

from gateway.licensing.findings import Finding

DOCUMENT_BYTES_MAX = 192 * 1024
DEPTH_MAX = 32


class StrictLoader(yaml.SafeLoader):
    """Plain scalars are strings, whole numbers, true, false and null: no dates (they would lose their offset), no `NO`
    that means false, no fractions. No aliases, no tags, no key twice."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - the base's own table must stay as it is

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next node; raises `yaml.YAMLError` for an alias, a tag or too deep nesting."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        self._depth = getattr(self, "_depth", 0) + 1
        for refused, problem in (
            (isinstance(event, yaml.AliasEvent), "aliases are not allowed"),
            (getattr(event, "tag", None) is not None, "tags are not allowed"),
            (self._depth > DEPTH_MAX, "nested too deep"),
        ):
            if refused:
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, yaml.MappingNode):
            _refuse_duplicates(node)
        return node


StrictLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
StrictLoader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^-?(?:0|[1-9][0-9]*)$"), list("-0123456789"))
StrictLoader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:null|~|)$"), ["n", "~", ""])


def _refuse_duplicates(node: yaml.MappingNode) -> None:
    seen: set[object] = set()
    for key, _ in node.value:
        if key.value in seen or not isinstance(key, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(problem=f"the key {key.value} is written twice", problem_mark=key.start_mark)
        seen.add(key.value)


def read_document(text: str) -> dict[str, Any]:
    """The document of a JSON or YAML text. Raises `Finding` schema_invalid with line and column."""
    if len(text) > DOCUMENT_BYTES_MAX or len(text.encode(errors="replace")) > DOCUMENT_BYTES_MAX:
        raise Finding("envelope_too_large", "", f"a document of more than {DOCUMENT_BYTES_MAX} bytes")
    try:
        if text.lstrip().startswith("{"):
            value = jiter.from_json(text.encode(), allow_inf_nan=False, catch_duplicate_keys=True)
        else:
            value = yaml.load(text, Loader=StrictLoader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        raise Finding("schema_invalid", "", f"{place}{error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise Finding("schema_invalid", "", str(error)[:200]) from None
    if not isinstance(value, dict):
        raise Finding("schema_invalid", "", "not a mapping of fields")
    for path, key in _keys(value):
        if not isinstance(key, str):
            raise Finding("schema_invalid", path, f"the key {key!r} is not a name")
    return value


def _keys(value: Any, path: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield path, key
            yield from _keys(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from _keys(item, f"{path}[{place}]")
