"""Reads one mapping of a configuration file field by field, and refuses what it does not know.

Every refusal names the field, the reason and the cure under a stable code:

| code | meaning |
|---|---|
| `unreadable` | the file cannot be read or is not YAML |
| `duplicate_key` | a key stands twice in one mapping |
| `missing_field` | a required field is absent |
| `unknown_field` | a field that nobody reads |
| `wrong_type` | a value of another type |
| `out_of_range` | the right type, but a value that is not allowed |
| `unsafe_value` | a value that would break a promise of the gateway |
| `duplicate_model` | two models with one id |
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Final


class CatalogueRefused(ValueError):
    """The catalogue is refused; `str()` is one line with code, field, reason and cure."""

    def __init__(self, code: str, field: str, reason: str, cure: str) -> None:
        super().__init__(f"{code} at {field}: {reason}; {cure}")
        self.code = code
        self.field = field
        self.reason = reason
        self.cure = cure


class _Required:
    """Marks a field without a default."""


REQUIRED: Final = _Required()


class Fields:
    """The fields of one mapping. Each reader takes its field out; `done` refuses what is left."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, Mapping):
            raise CatalogueRefused(
                "wrong_type", where, f"a mapping is needed, not {_named(value)}", "indent its fields"
            )
        self._left: dict[str, object] = {str(name): item for name, item in value.items()}
        self._known: list[str] = []
        self.where = where

    def at(self, name: str) -> str:
        """The full name of a field, as a refusal shows it."""
        return f"{self.where}.{name}" if self.where else name

    def text(self, name: str, default: str | _Required = REQUIRED, *, pattern: str = r".+") -> str:
        """A string that matches `pattern` as a whole."""
        value = self._take(name, default)
        if not isinstance(value, str):
            raise self._wrong_type(name, value, "a text")
        if re.fullmatch(pattern, value) is None:
            raise self._range(name, f"{value!r} does not match {pattern}", "write it in that form")
        return value

    def optional_text(self, name: str, *, pattern: str = r".+") -> str | None:
        """A string, or None where the field is absent or null."""
        if self._left.get(name) is None:
            self._take(name, None)
            return None
        return self.text(name, pattern=pattern)

    def integer(self, name: str, default: int | _Required = REQUIRED, *, low: int, high: int) -> int:
        """A whole number in `low..high`; true and false are no numbers."""
        value = self._take(name, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong_type(name, value, "a whole number")
        if not low <= value <= high:
            raise self._range(name, f"{value} is not in {low}..{high}", f"choose a number in {low}..{high}")
        return value

    def fraction(self, name: str, default: float, *, low: float, high: float) -> float:
        """A number in `low..high`."""
        value = self._take(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self._wrong_type(name, value, "a number")
        if not low <= value <= high:
            raise self._range(name, f"{value} is not in {low}..{high}", f"choose a number in {low}..{high}")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """true or false."""
        value = self._take(name, default)
        if not isinstance(value, bool):
            raise self._wrong_type(name, value, "true or false")
        return value

    def choice(self, name: str, options: Collection[str], default: str | _Required = REQUIRED) -> str:
        """One of the named options."""
        value = self.text(name, default)
        if value not in options:
            raise self._range(name, f"{value!r} is not known", f"choose one of {', '.join(options)}")
        return value

    def texts(self, name: str, default: tuple[str, ...] | _Required = REQUIRED) -> tuple[str, ...]:
        """A list of strings without repetition."""
        value = self._take(name, default)
        if not isinstance(value, list | tuple):
            raise self._wrong_type(name, value, "a list")
        for item in value:
            if not isinstance(item, str):
                raise self._wrong_type(name, item, "a list of texts")
        if len(set(value)) != len(value):
            raise self._range(name, "an entry stands twice", "remove the second one")
        return tuple(value)

    def entries(self, name: str) -> list[object]:
        """A list with one entry at least, each to be read by the caller."""
        value = self._take(name, REQUIRED)
        if not isinstance(value, list):
            raise self._wrong_type(name, value, "a list")
        if not value:
            raise self._range(name, "the list is empty", "add an entry")
        return value

    def section(self, name: str, default: Mapping[str, object] | _Required = REQUIRED) -> Fields:
        """A mapping inside this one."""
        return Fields(self._take(name, default), self.at(name))

    def only(self, name: str, safe: object, *, why: str) -> None:
        """A field that may be left out or state the one safe value; `why` says what another one would break."""
        value = self._take(name, safe)
        if type(value) is not type(safe) or value != safe:
            cure = f"write {_shown(safe)} or leave the field out"
            raise CatalogueRefused("unsafe_value", self.at(name), f"{_shown(value)} {why}", cure)

    def done(self) -> None:
        """Refuses the fields that nobody read."""
        for name in self._left:
            near = difflib.get_close_matches(name, self._known, n=1)
            cure = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(self._known))}"
            raise CatalogueRefused("unknown_field", self.at(name), "nothing reads this field", cure)

    def _take(self, name: str, default: object) -> object:
        self._known.append(name)
        if name in self._left:
            return self._left.pop(name)
        if isinstance(default, _Required):
            raise CatalogueRefused("missing_field", self.at(name), "the field is required", "add it")
        return default

    def _wrong_type(self, name: str, value: object, wanted: str) -> CatalogueRefused:
        return CatalogueRefused(
            "wrong_type", self.at(name), f"{_named(value)} where {wanted} belongs", f"write {wanted}"
        )

    def _range(self, name: str, reason: str, cure: str) -> CatalogueRefused:
        return CatalogueRefused("out_of_range", self.at(name), reason, cure)


def _named(value: object) -> str:
    if value is None:
        return "nothing"
    return f"{type(value).__name__} {value!r:.60}"


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)[:60]
