"""What the journal must say after each of its statements: the rules without SQL. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from billing.journal import Mark
from billing.types import OpenRow, Settlement, Usage

RANK = {"open": 0, "dispatched": 1, "streaming": 2, "settled": 3, "recovered": 3, "voided": 3}


@dataclass
class Kept:
    """One request. `booked_at` are the moments at which it may count: two where a month was closed meanwhile."""

    opened: OpenRow
    state: str = "open"
    attempt: int = 1
    checkpoint: tuple[int, Usage] | None = None
    final: Settlement | None = None
    booked_at: frozenset[int] = frozenset()

    @property
    def usage(self) -> Usage:
        return self.final.usage if self.final else Usage()

    @property
    def micro_yen(self) -> int:
        return self.final.micro_yen if self.final else 0

    @property
    def recoverable(self) -> Usage | None:
        """The checkpoint of the attempt that is under way."""
        return self.checkpoint[1] if self.checkpoint and self.checkpoint[0] == self.attempt else None


@dataclass
class Model:
    """One tenant's requests. `watermark` in microseconds, below every time before the first closing."""

    kept: dict[str, Kept] = field(default_factory=dict)
    watermark: int = 0

    def open(self, row: OpenRow) -> None:
        self.kept.setdefault(row.request_id, Kept(row))

    def mark(self, mark: Mark) -> bool:
        """Whether a first byte may leave."""
        one = self.kept[mark.request_id]
        if mark.usage.prompt > 0:
            one.checkpoint = (mark.attempt, mark.usage)
        if one.final or one.state == "streaming" or not (mark.first_byte or mark.sent):
            return not mark.first_byte
        one.state, one.attempt = "streaming" if mark.first_byte else "dispatched", mark.attempt
        return True

    def settle(self, settlement: Settlement, *watermarks: int) -> bool:
        """Whether it is the one that counts. `watermarks`: those that it may have seen, by default the present one."""
        one = self.kept[settlement.request_id]
        if one.final:
            return False
        one.final, one.state, one.attempt, one.checkpoint = settlement, settlement.state, settlement.attempt, None
        one.booked_at = frozenset(max(settlement.settled_at, moment) for moment in watermarks or (self.watermark,))
        return True

    def unfinished(self) -> Sequence[Kept]:
        """Oldest first."""
        return [one for _, one in sorted(self.kept.items()) if one.final is None]

    def final(self) -> Sequence[Kept]:
        return [one for _, one in sorted(self.kept.items()) if one.final is not None]
