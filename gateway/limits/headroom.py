"""What the limits of a request leave: the level that binds, and the `x-ratelimit-*` headers that tell it."""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.limits.levels import LevelKind, LimitLevel


@dataclass(frozen=True, slots=True)
class Headroom:
    """What is left of one limit of one level, and the seconds until it is whole again."""

    kind: LevelKind
    limit: int
    remaining: int
    reset_s: int


@dataclass(frozen=True, slots=True)
class Standing:
    """How a limited level stands: tokens and micro-yen used or held in its month; requests and tokens of the running
    minute."""

    level: LimitLevel
    tokens: int
    micro_yen: int
    requests: int
    minute_tokens: int

    def requests_left(self, reset_s: int) -> Headroom | None:
        """Requests of the minute; None where the level does not limit them."""
        return self._left(self.level.limits.rpm, self.requests, reset_s)

    def tokens_left(self, reset_s: int) -> Headroom | None:
        """Tokens of the month; None where the level does not limit them."""
        return self._left(self.level.limits.tokens_month, self.tokens, reset_s)

    def minute_tokens_left(self, reset_s: int) -> Headroom | None:
        """Tokens of the minute; None where the level does not limit them."""
        return self._left(self.level.limits.tpm, self.minute_tokens, reset_s)

    def _left(self, limit: int | None, taken: int, reset_s: int) -> Headroom | None:
        # A limit that was lowered may stand below what is used.
        return None if limit is None else Headroom(self.level.kind, limit, max(0, limit - taken), reset_s)


def least(headrooms: Sequence[Headroom | None]) -> Headroom | None:
    """The one that binds: the least remaining, of equals the last (levels are given from wide to narrow)."""
    known = [one for one in headrooms if one is not None]
    return min(reversed(known), key=lambda one: one.remaining, default=None)


def ratelimit_headers(requests: Headroom | None, tokens: Headroom | None) -> dict[str, str]:
    """`x-ratelimit-*` in the names of the OpenAI API; `-reset-*` in seconds (`12s`), `-scope-*` names the level."""
    headers = {}
    for unit, headroom in (("requests", requests), ("tokens", tokens)):
        if headroom is not None:
            headers[f"x-ratelimit-limit-{unit}"] = str(headroom.limit)
            headers[f"x-ratelimit-remaining-{unit}"] = str(headroom.remaining)
            headers[f"x-ratelimit-reset-{unit}"] = f"{headroom.reset_s}s"
            headers[f"x-ratelimit-scope-{unit}"] = headroom.kind
    return headers
