"""Model patterns: `name-or-glob[@ version range]`, for instance `sakura-*@ >=1.2,<2`.

`*` stands for any run of characters, nothing else is special. Ranges are PEP 440 specifiers on plain release numbers of
up to four parts, as upstreams carry them; how they compare is left to `packaging`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

from packaging.specifiers import SpecifierSet
from packaging.version import Version

# No `?` and no `[`: fnmatch, which compares, would read them as special.
_NAME = re.compile(r"[A-Za-z0-9*][A-Za-z0-9*._:/+-]{0,127}")
_SPECIFIER = re.compile(r"(~=|==|!=|<=|>=|<|>)\s*((?:0|[1-9]\d{0,8})(?:\.(?:0|[1-9]\d{0,8})){0,3})(\.\*)?", re.ASCII)
_SPECIFIERS_MAX = 16


class PatternError(ValueError):
    """The text is no model pattern."""


class RangeError(PatternError):
    """The part after `@` is no version range."""


@dataclass(frozen=True, slots=True)
class ModelPattern:
    """A parsed pattern. An empty range contains every version."""

    name: str
    versions: SpecifierSet

    def matches(self, model: str, version: Version) -> bool:
        """Whether `model` at `version` is meant."""
        return fnmatchcase(model, self.name) and version in self.versions

    def covers(self, other: "ModelPattern") -> bool:
        """Whether everything that `other` matches is matched here. False where that cannot be shown."""
        # A `*` of the other's text is an ordinary character here: only a `*` of our own can swallow it.
        return fnmatchcase(other.name, self.name) and _contains(self.versions, other.versions)


@lru_cache(maxsize=65_536)
def parse_pattern(text: str) -> ModelPattern:
    """The pattern of `text`. Raises `PatternError`, for its range `RangeError`."""
    name, at, versions = text.partition("@")
    name = name.strip(" ")
    if _NAME.fullmatch(name) is None:
        raise PatternError(f"{name!r} is not a model name; letters, digits and ._:/+-* are")
    return ModelPattern(name, _versions(versions) if at else SpecifierSet())


def _versions(text: str) -> SpecifierSet:
    parts = text.split(",")
    if len(parts) > _SPECIFIERS_MAX:
        raise RangeError(f"more than {_SPECIFIERS_MAX} specifiers")
    for part in parts:
        match = _SPECIFIER.fullmatch(part.strip(" "))
        if match is None:
            raise RangeError(f"{part.strip(' ')!r} is not an operator and a version number")
        operator, number, wildcard = match.groups()
        if wildcard and operator not in ("==", "!="):
            raise RangeError(f"{part.strip(' ')!r}: only == and != take .*")
        if operator == "~=" and "." not in number:
            raise RangeError(f"{part.strip(' ')!r}: ~= needs two parts or more")
    return SpecifierSet(text.replace(" ", ""))


def _contains(outer: SpecifierSet, inner: SpecifierSet) -> bool:
    """Whether every release number in `inner` is in `outer`.

    Between two neighbouring numbers that the specifiers name, no specifier changes its answer: one probe for each
    number and one for each gap after it decide.
    """
    named = {(0, 0, 0, 0), *(number for versions in (outer, inner) for number in _breaks(versions))}
    for number in named:
        for probe in (number, (*number, 1)):  # x.y.z.w.1 lies after x.y.z.w and before every other number of four parts
            version = Version(".".join(map(str, probe)))
            if version in inner and version not in outer:
                return False
    return True


def _breaks(versions: SpecifierSet) -> Iterator[tuple[int, ...]]:
    """The numbers, in four parts, at which a specifier of `versions` may change its answer."""
    for specifier in versions:
        release = tuple(int(part) for part in specifier.version.removesuffix(".*").split("."))
        yield _padded(release)
        if specifier.version.endswith(".*"):
            yield _padded(_next(release))
        elif specifier.operator == "~=":
            yield _padded(_next(release[:-1]))


def _next(release: tuple[int, ...]) -> tuple[int, ...]:
    return (*release[:-1], release[-1] + 1)


def _padded(release: tuple[int, ...]) -> tuple[int, ...]:
    return release + (0,) * (4 - len(release))
