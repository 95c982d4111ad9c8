"""Turns what msgspec says about a scenario into a field path, a problem and a cure."""

import difflib
import re
from typing import Any, get_args

import msgspec
from msgspec import inspect

_STEP = re.compile(r"\.(\w+)|\[(\d+|\.\.\.)\]")


def explain(path: str, message: str, struct: type[msgspec.Struct]) -> tuple[str, str, str]:
    """(field, problem, cure) for a ``msgspec.ValidationError`` raised while reading ``struct`` at ``path``."""
    problem, _, where = message.partition(" - at `$")
    where = where.rstrip("`")
    unknown = re.search(r"contains unknown field `(.+)`", problem)
    missing = re.search(r"missing required field `(.+)`", problem)
    known = _fields_at(struct, where)
    if unknown:
        name = unknown.group(1)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        return f"{path}{where}.{name}", "unknown field", f"{hint}Known fields: {', '.join(sorted(known))}."
    if missing:
        name = missing.group(1)
        return f"{path}{where}.{name}", "missing field", f"Give {known.get(name) or 'a value'}."
    described = _describe(struct, list(_STEP.finditer(where)))
    return f"{path}{where}", problem[:1].lower() + problem[1:], f"Give {described or 'a value of that kind'}."


def _describe(struct: type[msgspec.Struct], steps: list[re.Match[str]]) -> str | None:
    """The description of the field that ``steps`` lead to; that of the list when they end inside one."""
    while steps and steps[-1].group(1) is None:
        steps.pop()
    if not steps:
        return "a mapping of fields, at least text"
    parent = "".join(step.group(0) for step in steps[:-1])
    return _fields_at(struct, parent).get(steps[-1].group(1))


def _fields_at(struct: type[msgspec.Struct], where: str) -> dict[str, str]:
    """Field name to description, over all struct types that can stand at ``where`` (several for a tagged union)."""
    here: list[type[msgspec.Struct]] = [struct]
    for step in _STEP.finditer(where):
        name = step.group(1)
        if name is not None:
            types = [_annotation(candidate, name) for candidate in here]
            here = [found for kind in types for found in _structs(kind)]
    fields: dict[str, str] = {}
    for candidate in here:
        tag = candidate.__struct_config__.tag_field
        if tag is not None:
            fields[tag] = "one of the fault kinds of README.md"
        for field in candidate.__struct_fields__:
            fields[field] = _description(candidate, field)
    return fields


def _annotation(struct: type[msgspec.Struct], field: str) -> Any:
    for info in msgspec.structs.fields(struct):
        if info.name == field:
            return info.type
    return None


def _description(struct: type[msgspec.Struct], field: str) -> str:
    kind = inspect.type_info(_annotation(struct, field))
    extra = kind.extra_json_schema if isinstance(kind, inspect.Metadata) else None
    return str((extra or {}).get("description", ""))


def _structs(kind: Any) -> list[type[msgspec.Struct]]:
    """All struct types named inside an annotation."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return [kind]
    return [found for part in get_args(kind) for found in _structs(part)]
