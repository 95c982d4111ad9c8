"""The rule of the limits, as docs/limits.md tells it, in plain Python: one tenant, one call after the other."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gateway.limits.levels import LimitLevel

LIMITS = ("tokens_month", "micro_yen_month", "tpm_alone", "concurrency", "rpm", "tpm")


@dataclass(frozen=True)
class Held:
    """A hold, the levels that it is held at, and the minute in which it was admitted."""

    period: str
    tokens: int
    micro_yen: int
    names: tuple[str, ...]
    minute: int = field(default=0, compare=False)


@dataclass
class Model:
    """Sums are used tokens, held tokens, used micro-yen, held micro-yen, by level and month."""

    sums: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    holds: dict[str, Held] = field(default_factory=dict)
    minute: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)

    def refusal(self, levels: Sequence[LimitLevel], period: str, tokens: int, micro_yen: int, minute: int) -> str:
        """The rule that refuses, '' when the request fits."""
        for limit, asked in zip(LIMITS, (tokens, micro_yen, tokens, 1, 1, tokens), strict=True):
            for level in reversed(levels):
                bound = getattr(level.limits, limit.removesuffix("_alone"))
                if bound is not None and self._taken(level, limit, period, minute) + asked > bound:
                    return f"limit:{level.kind}:{limit}"
        return ""

    def reserve(self, request_id: str, held: Held, minute: int) -> None:
        if minute != self.minute:
            self.minute = minute
            self.requests.clear()
            self.tokens.clear()
        self.holds[request_id] = replace(held, minute=minute)
        for name in held.names:
            self.requests[name] += 1
            self.tokens[name] += held.tokens
            self._add(name, held.period, 0, held.tokens, 0, held.micro_yen)

    def release(self, request_id: str, tokens: int, micro_yen: int, minute: int) -> None:
        held = self.holds.pop(request_id, None)
        for name in () if held is None else held.names:
            assert held is not None
            self._add(name, held.period, tokens, -held.tokens, micro_yen, -held.micro_yen)
            if held.minute == minute == self.minute:
                self.tokens[name] += tokens - held.tokens

    def shrink(self, request_id: str, tokens: int, micro_yen: int, minute: int) -> None:
        held = self.holds.get(request_id)
        if held is None:
            return
        tokens, micro_yen = min(tokens, held.tokens), min(micro_yen, held.micro_yen)
        self.holds[request_id] = replace(held, tokens=tokens, micro_yen=micro_yen)
        for name in held.names:
            self._add(name, held.period, 0, tokens - held.tokens, 0, micro_yen - held.micro_yen)
            if held.minute == minute == self.minute:
                self.tokens[name] += tokens - held.tokens

    def headroom(
        self, levels: Sequence[LimitLevel], limits: Sequence[str], period: str, minute: int
    ) -> tuple[str, int, int] | None:
        """Kind, bound and rest of the level and limit with the least left, the narrowest of equals."""
        found = None
        for level in levels:
            for limit in limits:
                bound = getattr(level.limits, limit)
                if bound is not None:
                    left = max(0, bound - self._taken(level, limit, period, minute))
                    found = (level.kind, bound, left) if found is None or left <= found[2] else found
        return found

    def _taken(self, level: LimitLevel, limit: str, period: str, minute: int) -> int:
        used_tokens, held_tokens, used_micro_yen, held_micro_yen = self.sums.get((level.name, period), [0] * 4)
        counted = minute == self.minute
        return {
            "tokens_month": used_tokens + held_tokens,
            "micro_yen_month": used_micro_yen + held_micro_yen,
            "tpm_alone": 0,
            "concurrency": sum(level.name in held.names for held in self.holds.values()),
            "rpm": self.requests[level.name] if counted else 0,
            "tpm": self.tokens[level.name] if counted else 0,
        }[limit]

    def _add(self, name: str, period: str, *amounts: int) -> None:
        found = self.sums.setdefault((name, period), [0] * 4)
        for number, amount in enumerate(amounts):
            found[number] += amount
