"""What a request asks of its limits, as `reserve.lua` and the book take it, and what their answer means."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gateway.faults import Fault
from gateway.limits.headroom import Headroom, Standing, least, ratelimit_headers
from gateway.limits.levels import LimitLevel
from gateway.limits.period import end_of

# `tpm_alone`: more than a whole minute of the level has, so that no waiting helps.
Limit = Literal["tokens_month", "micro_yen_month", "tpm_alone", "concurrency", "rpm", "tpm"]
_OF_AMOUNTS = frozenset({"tokens_month", "micro_yen_month", "tpm", "tpm_alone"})
_FIGURES = 4


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
                bounds = (limits.tokens_month, limits.micro_yen_month, limits.rpm, limits.concurrency, limits.tpm)
                arguments += [number, *(-1 if bound is None else bound for bound in bounds)]
        return arguments

    @property
    def ask(self) -> dict[str, Any]:
        """The argument of `limits_reserve`."""
        limited = [level for level in self.levels if level.limits.bounded]
        return {
            "request_id": self.request_id, "tenant_id": self.tenant_id, "period": self.period, "tokens": self.tokens,
            "micro_yen": self.micro_yen, "instance_id": self.instance_id,
            "levels": [level.name for level in self.levels],
            "bounds": [
                {"number": number, "level": level.name, "tokens_month": level.limits.tokens_month,
                 "micro_yen_month": level.limits.micro_yen_month, "rpm": level.limits.rpm,
                 "concurrency": level.limits.concurrency, "tpm": level.limits.tpm}
                for number, level in enumerate(limited, 1)
            ],
        }  # fmt: skip

    @property
    def amounts_bounded(self) -> bool:
        """Whether a level limits tokens or yen."""
        return any(level.limits.amounts_bounded for level in self.levels)

    def hold(self, answer: Sequence[Any], generation: int) -> "Hold":
        """The hold that the answer of `generation` tells of. Raises `Refusal` when a limit refuses."""
        verdict, number, now, *figures = answer
        limited = [level for level in self.levels if level.limits.bounded]
        standings = [
            Standing(level, *figures[_FIGURES * n : _FIGURES * (n + 1)]) for n, level in enumerate(limited)
        ]  # fmt: skip
        minute_s, month_s = 60 - now % 60, max(0, end_of(self.period, self.zone) - now)
        requests = least([one.requests_left(minute_s) for one in standings])
        tokens = least(
            [left for one in standings for left in (one.tokens_left(month_s), one.minute_tokens_left(minute_s))]
        )
        if verdict == "held":
            return Hold(self, generation, requests, tokens)
        refusing = standings[number - 1]
        # The level with the least left may be a wider one, which would refuse as well.
        if verdict == "tokens_month":
            tokens = refusing.tokens_left(month_s)
        elif verdict in ("tpm", "tpm_alone"):
            tokens = refusing.minute_tokens_left(minute_s)
        raise self._refusal(verdict, refusing, minute_s, ratelimit_headers(requests, tokens))

    def _refusal(self, limit: Limit, refusing: Standing, minute_s: int, headers: dict[str, str]) -> "Refusal":
        level, bounds = refusing.level, refusing.level.limits
        name = limit.removesuffix("_alone")
        named: dict[str, Any] = {
            "rule": f"limit:{level.kind}:{name}",
            "licence": self.licence if level.kind == "licence" else None,
            # One's own tenant needs no name.
            "limit_name": f"tenant {name}" if level.kind == "tenant" else f"{level.kind} {level.id} {name}",
            "headers": headers,
            "of_amounts": limit in _OF_AMOUNTS,
        }
        if limit == "tokens_month":
            left = (bounds.tokens_month or 0) - refusing.tokens
            return _quota(self.tokens, left, " tokens", "トークン", named)
        if limit == "micro_yen_month":
            left = (bounds.micro_yen_month or 0) - refusing.micro_yen
            return _quota(self.micro_yen, left, " micro-yen", "マイクロ円", named)
        if limit == "tpm_alone":
            return Refusal("request_exceeds_minute", needed=self.tokens, limit=bounds.tpm, **named)
        if limit == "concurrency":
            return Refusal("rate_limit_exceeded", limit=bounds.concurrency, retry_after_s=1, **named)
        bound = bounds.rpm if limit == "rpm" else bounds.tpm
        return Refusal("rate_limit_exceeded", limit=bound, retry_after_s=minute_s, **named)


class Refusal(Fault):
    """A limit refuses. `of_amounts`: a smaller request might pass."""

    def __init__(self, code: str, *, of_amounts: bool, **values: Any) -> None:
        super().__init__(code, **values)
        self.of_amounts = of_amounts


@dataclass(frozen=True, slots=True)
class Hold:
    """What a request may use at most, held in `generation`, and what its limits leave after it: of the level with the
    least of each, None where no level limits it (for `x-ratelimit-*`)."""

    asked: Reservation
    generation: int
    requests_left: Headroom | None
    tokens_left: Headroom | None

    @property
    def request_id(self) -> str:
        """The request's."""
        return self.asked.request_id

    @property
    def tenant_id(self) -> str:
        """Whose limits hold it."""
        return self.asked.tenant_id

    @property
    def period(self) -> str:
        """The month that it counts in."""
        return self.asked.period

    @property
    def tokens(self) -> int:
        """Tokens held at admission."""
        return self.asked.tokens

    @property
    def micro_yen(self) -> int:
        """Micro-yen held at admission."""
        return self.asked.micro_yen


def _quota(needed: int, left: int, unit: str, unit_ja: str, named: dict[str, Any]) -> Refusal:
    return Refusal("insufficient_quota", needed=needed, remaining=max(0, left), unit=unit, unit_ja=unit_ja, **named)
