"""The rule of the limits, as docs/limits.md tells it, in plain Python: one tenant, one call after the other."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.limits.levels import LimitLevel

LIMITS = ("tokens_month", "micro_yen_month", "concurrency", "rpm")


@dataclass(frozen=True)
class Held:
    """A hold and the levels that it is held at."""

    period: str
    tokens: int
    micro_yen: int
    names: tuple[str, ...]


@dataclass
class Model:
    """Sums are used tokens, held tokens, used micro-yen, held micro-yen, by level and month."""

    sums: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    holds: dict[str, Held] = field(default_factory=dict)
    minute: int = 0
    requests: Counter[str] = field(default_factory=Counter)

    def refusal(self, levels: Sequence[LimitLevel], period: str, tokens: int, micro_yen: int, minute: int) -> str:
        """The rule that refuses, '' when the request fits."""
        for limit, asked in zip(LIMITS, (tokens, micro_yen, 1, 1), strict=True):
            for level in reversed(levels):
                bound = getattr(level.limits, limit)
                if bound is not None and self._taken(level, limit, period, minute) + asked > bound:
                    return f"limit:{level.kind}:{limit}"
        return ""

    def reserve(self, request_id: str, held: Held, minute: int) -> None:
        if minute != self.minute:
            self.minute = minute
            self.requests.clear()
        self.holds[request_id] = held
        for name in held.names:
            self.requests[name] += 1
            self._add(name, held.period, 0, held.tokens, 0, held.micro_yen)

    def release(self, request_id: str, tokens: int, micro_yen: int) -> None:
        held = self.holds.pop(request_id, None)
        for name in () if held is None else held.names:
            assert held is not None
            self._add(name, held.period, tokens, -held.tokens, micro_yen, -held.micro_yen)

    def headroom(
        self, levels: Sequence[LimitLevel], limit: str, period: str, minute: int
    ) -> tuple[str, int, int] | None:
        """Kind, bound and rest of the level with the least left, the narrowest of equals."""
        found = None
        for level in levels:
            bound = getattr(level.limits, limit)
            if bound is not None:
                left = max(0, bound - self._taken(level, limit, period, minute))
                found = (level.kind, bound, left) if found is None or left <= found[2] else found
        return found

    def _taken(self, level: LimitLevel, limit: str, period: str, minute: int) -> int:
        used_tokens, held_tokens, used_micro_yen, held_micro_yen = self.sums.get((_name(level), period), [0] * 4)
        if limit == "tokens_month":
            return used_tokens + held_tokens
        if limit == "micro_yen_month":
            return used_micro_yen + held_micro_yen
        if limit == "concurrency":
            return sum(_name(level) in held.names for held in self.holds.values())
        return self.requests[_name(level)] if minute == self.minute else 0

    def _add(self, name: str, period: str, *amounts: int) -> None:
        found = self.sums.setdefault((name, period), [0] * 4)
        for number, amount in enumerate(amounts):
            found[number] += amount


def _name(level: LimitLevel) -> str:
    return "" if level.kind == "tenant" else level.name
