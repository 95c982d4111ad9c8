"""Standard licences (標準テンプレート) to start from: valid documents with comments in both languages.

A value is put into the text in place, so that the comments stay for the person who edits it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import yaml

from gateway.licensing.reading import StrictLoader, read_document

TEMPLATES = ("investor", "public", "research", "subcontractor")
# Names for the fields that nearly every licence sets.
SHORT_NAMES: Mapping[str, str] = {
    "tenant": "licensee.tenant",
    "legal_name": "licensee.legal_name",
    "hojin_bangou": "licensee.hojin_bangou",
    "not_before": "validity.not_before",
    "not_after": "validity.not_after",
    "models": "grants[0].models",
}
_STEP = re.compile(r"\.?([A-Za-z0-9_]+)|\[(\d+)\]")


class TemplateError(ValueError):
    """There is no such template, or no such place in it."""


def render(template: str, **values: Any) -> dict[str, Any]:
    """The document of a template with values set: fields by dotted path (`**{"grants[0].quota.rpm": 60}`), the usual
    ones also by the names of `SHORT_NAMES`. Raises `TemplateError`; the document is not checked."""
    return read_document(render_text(template, values))


def render_text(template: str, values: Mapping[str, Any]) -> str:
    """The same as a YAML text with the template's comments."""
    if template not in TEMPLATES:
        raise TemplateError(f"there is no template {template!r}; choose from {', '.join(TEMPLATES)}")
    folder = resources.files("gateway.licensing").joinpath("templates")
    text = folder.joinpath(f"{template}.yaml").read_text(encoding="utf-8")
    for name, value in values.items():
        text = put(text, SHORT_NAMES.get(name, name), value)
    return text


def put(text: str, path: str, value: Any) -> str:
    """The YAML text with the field at `path` set to a JSON value. What surrounds it stays as it is; a field that is not
    there is added to what `path` leads to, a list grows by the index after its last. Raises `TemplateError`."""
    node = yaml.compose(text, Loader=StrictLoader)
    if node is None:
        raise TemplateError("an empty text")
    steps = _steps(path)
    for depth, step in enumerate(steps):
        below = _child(node, step)
        if below is None:
            return _added(text, node, step, _nested(steps[depth + 1 :], value), path)
        node = below
    written = json.dumps(value, ensure_ascii=False)
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        # A block's end mark lies after the comments and the indentation that follow it.
        tail = text[node.start_mark.index : node.end_mark.index]
        end = node.start_mark.index + len(tail.rstrip())
    else:
        end = node.end_mark.index
    return text[: node.start_mark.index] + written + text[end:]


def _steps(path: str) -> list[str | int]:
    steps: list[str | int] = []
    at = 0
    while at < len(path):
        match = _STEP.match(path, at)
        if match is None:
            raise TemplateError(f"{path!r} is not a path like grants[0].quota.rpm")
        name, place = match.groups()
        steps.append(int(place) if name is None else name)
        at = match.end()
    if not steps:
        raise TemplateError("an empty path")
    return steps


def _child(node: yaml.Node, step: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == step), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        below: yaml.Node = node.value[step]
        return below
    return None


def _nested(steps: Sequence[str | int], value: Any) -> Any:
    for step in reversed(steps):
        value = [value] if isinstance(step, int) else {step: value}
    return value


def _added(text: str, node: yaml.Node, step: str | int, value: Any, path: str) -> str:
    written = json.dumps(value, ensure_ascii=False)
    start = node.start_mark.index
    if isinstance(node, yaml.MappingNode) and isinstance(step, str):
        entry = f"{step}: {written}"
    elif isinstance(node, yaml.SequenceNode) and step == len(node.value) and node.flow_style:
        end = node.end_mark.index - 1
        return text[:end] + (", " if node.value else "") + written + text[end:]
    else:
        raise TemplateError(f"{path!r} leads to no place of the document")
    if node.flow_style:
        return text[: start + 1] + entry + (", " if node.value else "") + text[start + 1 :]
    return text[:start] + entry + "\n" + " " * node.start_mark.column + text[start:]
