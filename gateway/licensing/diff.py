"""What changed between two licences, field by field. Defaults count as written, clauses are matched by their ids."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.licensing.document import LicenceDocument

_BY_ID = ("grants", "prohibitions")
# Lists whose order means nothing.
_SETS = (
    "models", "actions", "purposes", "data_classes", "regions", "tiers", "adapters", "to", "contributions",
    "processing_countries",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Change:
    """One field that differs. `path` is dotted, clauses by id (`grants[g1].quota.rpm`); None: not there."""

    path: str
    before: Any
    after: Any


def diff(before: LicenceDocument, after: LicenceDocument) -> list[Change]:
    """The fields in which the two differ, in the order of the document."""
    return list(_compare("", _plain(before), _plain(after)))


def _plain(document: LicenceDocument) -> dict[str, Any]:
    tree: dict[str, Any] = msgspec.to_builtins(document)
    for name in _BY_ID:
        tree[name] = {f"[{clause['id']}]": clause for clause in tree[name]}
    # The same moment may be written with another offset.
    for name in ("not_before", "not_after"):
        tree["validity"][name] = getattr(document.validity, name)
    return tree


def _compare(path: str, before: Any, after: Any) -> Iterator[Change]:
    if isinstance(before, dict | None) and isinstance(after, dict | None):
        old, new = before or {}, after or {}
        for name in dict.fromkeys([*old, *new]):
            below = f"{path}{name}" if name.startswith("[") or not path else f"{path}.{name}"
            yield from _compare(below, old.get(name), new.get(name))
    elif path.rpartition(".")[2] in _SETS and isinstance(before, list) and isinstance(after, list):
        if set(before) != set(after):
            yield Change(path, sorted(before), sorted(after))
    elif before != after:
        yield Change(path, before, after)
