"""How limits stand, for people: per limit every level with what is used, held and left, and which level binds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.licensing.times import from_us
from gateway.limits.levels import LIMIT_NAMES, LimitLevel, LimitName, Raise
from gateway.limits.period import end_of

_SECOND_US = 1_000_000
_FIGURES = 7


@dataclass(frozen=True, slots=True)
class LevelStanding:
    """How a level stands: of the month used and held, running requests, and of the minute requests and tokens."""

    level: LimitLevel
    used_tokens: int
    held_tokens: int
    used_micro_yen: int
    held_micro_yen: int
    running: int
    minute_requests: int
    minute_tokens: int

    def amounts(self, limit: LimitName) -> tuple[int, int]:
        """Used and held of a limit. A minute's tokens are told as used, held or not."""
        return {
            "tokens_month": (self.used_tokens, self.held_tokens),
            "micro_yen_month": (self.used_micro_yen, self.held_micro_yen),
            "rpm": (self.minute_requests, 0),
            "tpm": (self.minute_tokens, 0),
            "concurrency": (0, self.running),
        }[limit]


def standings(levels: Sequence[LimitLevel], figures: Sequence[int]) -> list[LevelStanding]:
    """The standings of `levels` from the figures of a store, seven per level."""
    return [LevelStanding(level, *figures[_FIGURES * n : _FIGURES * (n + 1)]) for n, level in enumerate(levels)]


@dataclass(frozen=True, slots=True)
class Scene:
    """What limits are told by: the tenant's raises by level name, the month and its zone; `at` is the time that raises
    are judged by (microseconds since the epoch), `now_s` that of the store (seconds)."""

    raises: Mapping[str, Sequence[Raise]]
    period: str
    zone: str
    at: int
    now_s: int

    def reset(self, limit: LimitName) -> str | None:
        """When the limit is whole again (RFC 3339); None where nothing but the end of a request helps."""
        if limit == "concurrency":
            return None
        at_s = end_of(self.period, self.zone) if limit.endswith("month") else (self.now_s // 60 + 1) * 60
        return from_us(at_s * _SECOND_US)


def report(found: Sequence[LevelStanding], scene: Scene) -> dict[str, Any]:
    """The answer of both effective-limit endpoints. `found` from wide to narrow, with limits as they are set, without
    raises."""
    limits = [_limit(name, found, scene) for name in LIMIT_NAMES]
    return {"at": from_us(scene.at), "zone": scene.zone, "limits": limits}


def _limit(name: LimitName, found: Sequence[LevelStanding], scene: Scene) -> dict[str, Any]:
    levels = [_level(name, standing, scene) for standing in found]
    limited = [level for level in levels if level["remaining"] is not None]
    binding = min(reversed(limited), key=lambda level: level["remaining"], default=None)
    return {
        "limit": name,
        "binds": None if binding is None else binding["name"],
        "remaining": None if binding is None else binding["remaining"],
        "reset_at": scene.reset(name),
        "levels": levels,
    }


def _level(name: LimitName, standing: LevelStanding, scene: Scene) -> dict[str, Any]:
    level = standing.level
    told = level.name or "tenant"
    base: int | None = getattr(level.limits, name)
    raises = [one for one in scene.raises.get(told, ()) if one.limit_name == name]
    highest = max(
        (one for one in raises if one.in_force(scene.at) and base is not None and one.value > base),
        key=lambda one: (one.value, one.ends_at),
        default=None,
    )
    bound = base if highest is None else highest.value
    used, held = standing.amounts(name)
    return {
        "name": told,
        "limit": bound,
        "set": base,
        "raise": None if highest is None else {"raise_id": highest.raise_id, "ends_at": from_us(highest.ends_at)},
        "used": used,
        "held": held,
        "remaining": None if bound is None else max(0, bound - used - held),
    }
