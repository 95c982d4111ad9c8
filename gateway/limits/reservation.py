"""What a request asks of its limits, as `reserve.lua` takes it, and what the script's answer means."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gateway.faults import Fault
from gateway.limits.headroom import Headroom, Standing, least, ratelimit_headers
from gateway.limits.levels import LimitLevel
from gateway.limits.period import end_of

Limit = Literal["tokens_month", "micro_yen_month", "concurrency", "rpm"]


@dataclass(frozen=True, slots=True)
class Hold:
    """What a request may use at most, and what its limits leave after it: of the level with the least of each, None
    where no level limits it (for `x-ratelimit-*`)."""

    request_id: str
    tenant_id: str
    period: str
    tokens: int
    micro_yen: int
    requests_left: Headroom | None
    tokens_left: Headroom | None


@dataclass(frozen=True, slots=True)
class Reservation:
    """What is asked: `tokens` and `micro_yen` at most, at all of `levels` (the tenant first, from wide to narrow,
    limited or not). `zone` is the tenant's, `licence` the licence of the level `licence`."""

    request_id: str
    tenant_id: str
    levels: Sequence[LimitLevel]
    period: str
    tokens: int
    micro_yen: int
    instance_id: str
    zone: str
    licence: str | None

    @property
    def arguments(self) -> list[str | int]:
        """The arguments of `reserve.lua`."""
        names = " ".join([level.name for level in self.levels[1:]])
        arguments: list[str | int] = [
            self.request_id,
            self.tokens,
            self.micro_yen,
            self.period,
            self.instance_id,
            names,
        ]
        for number, level in enumerate(self.levels):
            limits = level.limits
            if limits.bounded:
                bounds = (limits.tokens_month, limits.micro_yen_month, limits.rpm, limits.concurrency)
                arguments += [number, *(-1 if bound is None else bound for bound in bounds)]
        return arguments

    def hold(self, answer: Sequence[Any]) -> Hold:
        """The hold that the script's answer tells of. Raises `Fault` when a limit refuses."""
        verdict, number, now, *figures = answer
        limited = [level for level in self.levels if level.limits.bounded]
        standings = [Standing(level, *figures[3 * n : 3 * n + 3]) for n, level in enumerate(limited)]
        minute_s, month_s = 60 - now % 60, max(0, end_of(self.period, self.zone) - now)
        requests = least([one.requests_left(minute_s) for one in standings])
        tokens = least([one.tokens_left(month_s) for one in standings])
        if verdict == "held":
            return Hold(self.request_id, self.tenant_id, self.period, self.tokens, self.micro_yen, requests, tokens)
        refusing = standings[number - 1]
        if verdict == "tokens_month":  # the level with the least left may be a wider one, which would refuse as well
            tokens = refusing.tokens_left(month_s)
        raise self._refusal(verdict, refusing, minute_s, ratelimit_headers(requests, tokens))

    def _refusal(self, limit: Limit, refusing: Standing, minute_s: int, headers: dict[str, str]) -> Fault:
        level = refusing.level
        named: dict[str, Any] = {
            "rule": f"limit:{level.kind}:{limit}",
            "licence": self.licence if level.kind == "licence" else None,
            # One's own tenant needs no name.
            "limit_name": f"tenant {limit}" if level.kind == "tenant" else f"{level.kind} {level.id} {limit}",
            "headers": headers,
        }
        bounds = level.limits
        if limit == "tokens_month":
            left = (bounds.tokens_month or 0) - refusing.tokens
            return _quota(self.tokens, left, " tokens", "トークン", named)
        if limit == "micro_yen_month":
            left = (bounds.micro_yen_month or 0) - refusing.micro_yen
            return _quota(self.micro_yen, left, " micro-yen", "マイクロ円", named)
        if limit == "concurrency":
            return Fault("rate_limit_exceeded", limit=bounds.concurrency, retry_after_s=1, **named)
        return Fault("rate_limit_exceeded", limit=bounds.rpm, retry_after_s=minute_s, **named)


def _quota(needed: int, left: int, unit: str, unit_ja: str, named: dict[str, Any]) -> Fault:
    return Fault("insufficient_quota", needed=needed, remaining=max(0, left), unit=unit, unit_ja=unit_ja, **named)
