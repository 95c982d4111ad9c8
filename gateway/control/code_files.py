"""Tenants as files: YAML read with the place of everything in it, so that every problem is told with file, line and
column.

A file holds parts of the desired state (`tenants`, `trust_keys`, `upstreams`, `rate_cards`); the parts of all files are
joined. Licences are named by file: `licences: [{file: acme.dsse.json}]`, relative to the file that names them. Aliases,
tags and repeated keys are refused, and so no file is larger than it looks.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from gateway.control.desired import PARTS, Desired, contradictions
from gateway.control.refusals import invalid
from gateway.faults import Fault, Language
from gateway.licensing.files import read_text
from gateway.licensing.findings import Finding
from gateway.licensing.reading import StrictLoader

FILES_MAX = 2_000
_PATH = re.compile(r"([^.\[\]]+)|\[([0-9]+)\]")
_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands; line and column from 1. `field` is its path within the file."""

    file: Path
    line: int
    column: int
    field: str


@dataclass(frozen=True, slots=True)
class FileProblem:
    """A problem with its place, its stable code, and what a person reads."""

    place: Place
    code: str
    message: str
    cure: str

    def line(self) -> str:
        """`file:line:column: field: code: text`, as editors know it."""
        place = self.place
        field = f"{place.field}: " if place.field else ""
        return f"{place.file}:{place.line}:{place.column}: {field}{self.code}: {self.message}"

    def outside(self) -> dict[str, Any]:
        """As JSON."""
        place = self.place
        return {"file": str(place.file), "line": place.line, "column": place.column, "path": place.field,
                "code": self.code, "message": self.message, "cure": self.cure}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of a part: where it comes from."""

    file: Path
    part: str
    number: int
    node: yaml.Node


class Files:
    """The files below one path, as one desired state. `tree` is what is sent; `problems` is all that is wrong with it
    already here."""

    def __init__(self, language: Language) -> None:
        self._language: Language = language
        self.tree: dict[str, Any] = {"v": 1}
        self.problems: list[FileProblem] = []
        self._entries: dict[str, list[_Entry]] = {}
        self._parts: dict[str, Place] = {}
        self._first = Place(Path("-"), 1, 1, "")

    def read(self, file: Path) -> None:
        """Join another file. Raises `OSError` when it cannot be read at all."""
        if not self._parts:
            self._first = Place(file, 1, 1, "")
        try:
            root = yaml.compose(read_text(file), Loader=StrictLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            place = Place(file, 1, 1, "") if mark is None else Place(file, mark.line + 1, mark.column + 1, "")
            self._add(place, Fault("invalid_yaml", detail=error.problem or "no YAML"))
            return
        except (yaml.YAMLError, Finding) as error:
            self._add(Place(file, 1, 1, ""), Fault("invalid_yaml", detail=getattr(error, "detail", str(error))))
            return
        if isinstance(root, yaml.MappingNode):
            for key, value in root.value:
                self._part(file, key, value)
        elif root is not None:
            detail = f"a mapping of {', '.join(PARTS)}"
            self._add(_place(file, root, ""), Fault("invalid_type", param=file.name, detail=detail))

    def check(self) -> None:
        """Judge the whole as the admin plane will."""
        try:
            problems = contradictions(Desired.model_validate(self.tree))
        except ValidationError as error:
            problems = invalid(error.errors())
        for problem in problems:
            self.tell(problem.outside(self._language))

    def tell(self, problem: Mapping[str, str]) -> None:
        """Add a problem of the joined state (`path`, `code`, `message`, `cure`), at its place."""
        place = self.place(problem["path"], problem["code"])
        self.problems.append(FileProblem(place, problem["code"], problem["message"], problem["cure"]))

    def place(self, path: str, code: str) -> Place:
        """Where `path` stands: the key of a field that should not be there, the value of others, and what should hold
        one that is missing."""
        steps = [name or int(number) for name, number in _PATH.findall(path)]
        entries = self._entries.get(str(steps[0])) if steps else None
        if entries is None or len(steps) < 2 or not isinstance(steps[1], int) or steps[1] >= len(entries):
            return replace(self._parts.get(str(steps[0]) if steps else "", self._first), field=path)
        entry = entries[steps[1]]
        field = f"{entry.part}[{entry.number}]" + path.partition("]")[2]
        node = _walk(entry.node, steps[2:], at_key=code == "unknown_field")
        return _place(entry.file, node, field)

    def _part(self, file: Path, key: yaml.ScalarNode, value: yaml.Node) -> None:
        name = key.value
        if name == "v":
            if not isinstance(value, yaml.ScalarNode) or value.value != "1":
                self._add(_place(file, value, "v"), Fault("invalid_value", param="v", detail="1"))
        elif name not in PARTS:
            self._add(_place(file, key, name), Fault("unknown_field", param=name))
        elif not isinstance(value, yaml.SequenceNode):
            self._add(_place(file, value, name), Fault("invalid_type", param=name, detail="a list"))
        else:
            known = self._entries.setdefault(name, [])
            self._parts.setdefault(name, _place(file, key, name))
            part: list[Any] = self.tree.setdefault(name, [])
            for number, node in enumerate(value.value):
                entry = _Entry(file, name, number, node)
                known.append(entry)
                part.append(self._with_envelopes(entry, _value(node)))

    def _with_envelopes(self, entry: _Entry, tenant: Any) -> Any:
        """A tenant with the texts of the licences' files in place of their names."""
        licences = tenant.get("licences") if entry.part == "tenants" and isinstance(tenant, dict) else None
        for number, licence in enumerate(licences if isinstance(licences, list) else ()):
            if isinstance(licence, dict) and isinstance(licence.get("file"), str):
                field = f"licences[{number}].file"
                name = licence.pop("file")
                try:
                    licence["envelope"] = read_text(entry.file.parent / name).removesuffix("\n")
                except (OSError, Finding) as error:
                    detail = error.detail if isinstance(error, Finding) else error.strerror or "not readable"
                    node = _walk(entry.node, ["licences", number, "file"], at_key=False)
                    place = _place(entry.file, node, f"{entry.part}[{entry.number}].{field}")
                    self._add(place, Fault("invalid_value", param=field, detail=f"{name}: {detail}"))
                    licence["envelope"] = "-"
        return tenant

    def _add(self, place: Place, fault: Fault) -> None:
        told = fault.text(self._language), fault.cure(self._language)
        self.problems.append(FileProblem(place, fault.code.name, *told))


def load(path: Path, language: Language) -> Files:
    """The files of a folder (those directly in it), or one file. Raises `OSError` where there is none."""
    files = sorted(found for found in path.iterdir() if found.suffix in _SUFFIXES) if path.is_dir() else [path]
    if not files or len(files) > FILES_MAX:
        raise FileNotFoundError(f"{path} holds {len(files)} YAML files; 1 to {FILES_MAX} are needed")
    state = Files(language)
    for file in files:
        state.read(file)
    state.check()
    return state


def _value(node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return {key.value: _value(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_value(item) for item in node.value]
    assert isinstance(node, yaml.ScalarNode)
    kind = node.tag.rpartition(":")[2]
    if kind == "int":
        return int(node.value) if len(node.value) < 20 else node.value
    return {"bool": node.value == "true", "null": None}.get(kind, node.value)


def _walk(node: yaml.Node, steps: list[Any], *, at_key: bool) -> yaml.Node:
    """The node at the end of the path, as far as there is one."""
    for step in steps:
        found = dict(_children(node)).get("file" if step == "envelope" else step)
        if found is None:
            return node
        key, node = found
        if at_key and step is steps[-1]:
            return key
    return node


def _children(node: yaml.Node) -> Iterator[tuple[str | int, tuple[yaml.Node, yaml.Node]]]:
    if isinstance(node, yaml.MappingNode):
        yield from ((key.value, (key, value)) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        yield from ((number, (item, item)) for number, item in enumerate(node.value))


def _place(file: Path, node: yaml.Node, field: str) -> Place:
    return Place(file, node.start_mark.line + 1, node.start_mark.column + 1, field)


def dumped(parts: Mapping[str, Any]) -> str:
    """Parts of a desired state as a file's text, in the order of the fields."""
    text: str = yaml.safe_dump(dict(parts), allow_unicode=True, sort_keys=False, width=120)
    return text
