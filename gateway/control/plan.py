"""What an application of the desired state changes, and a digest that tells two of them apart."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gateway.control.audit import digest_of

# `drift`: the book has moved on by itself in a way that files do not undo (a revocation, a newer licence).
Effect = Literal["create", "update", "revoke", "retire", "unchanged", "drift", "not_in_files"]
WRITING: frozenset[Effect] = frozenset({"create", "update", "revoke", "retire"})


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the desired state, or of the book. `before` and `after` hold the fields that differ; `note` says
    what a drift is."""

    effect: Effect
    kind: str
    name: str
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    def outside(self) -> dict[str, Any]:
        """As answers show it."""
        return {"effect": self.effect, "kind": self.kind, "name": self.name, "before": dict(self.before),
                "after": dict(self.after), "note": self.note}  # fmt: skip


def plan_digest(changes: Sequence[Change]) -> str:
    """SHA-256 of what would be written, in hex; whatever stays as it is does not count."""
    return digest_of([change.outside() for change in changes if change.effect in WRITING])


def summary(changes: Sequence[Change]) -> dict[str, int]:
    """How many entries have each effect."""
    return dict(sorted(Counter(change.effect for change in changes).items()))
