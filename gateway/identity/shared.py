"""What all gateway processes must know together, in Valkey: proofs and assertions used, attempts that failed."""

import hashlib
import secrets
from collections import OrderedDict
from dataclasses import dataclass

from redis.exceptions import RedisError

from gateway.faults import Fault
from gateway.identity.addresses import attempts_origin
from gateway.limits.scripts import Script, Scripts

_MINUTE_S = 60
_SECOND_US = 1_000_000
ORIGINS_MAX = 16_384


def _script(text: str) -> Script:
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


# The value names the asker: a batch that is sent again after a lost answer finds its own mark, not a replay.
_FIRST_USE = _script("""
local mark = redis.call('SET', KEYS[1], ARGV[1], 'NX', 'EX', ARGV[2], 'GET')
if mark and mark ~= ARGV[1] then return 0 end
return 1
""")

# KEYS: 1 attempts of the origin. ARGV: 1 seconds of the window. Returns the count and the seconds left of the window.
_COUNT = _script("""
local count = redis.call('INCR', KEYS[1])
if count == 1 then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
return {count, redis.call('TTL', KEYS[1])}
""")


class SingleUse:
    """The set of ids that may be used once: `jti` of DPoP proofs (RFC 9449 §11.1) and of assertions (RFC 7523 §3)."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    async def first(self, kind: str, holder: str, jti: str, seconds: int) -> bool:
        """Whether no process saw `jti` of `holder` in the last `seconds`. Raises `Fault("store_unavailable")`: without
        the set every proof could be a replay."""
        name = hashlib.sha256(f"{holder}\0{jti}".encode()).hexdigest()
        try:
            first = await self._scripts.run(_FIRST_USE, [f"sekisho:{kind}:{name}"], [secrets.token_hex(8), seconds])
        except (RedisError, OSError) as error:
            raise Fault("store_unavailable", retry_after_s=1, internal=f"single use: {error!r}") from error
        return bool(first)


@dataclass(slots=True)
class _Window:
    ends_at: int
    count: int


class FailedAttempts:
    """Failed attempts per client address and minute, over all processes; alone when Valkey is away. Only failures are
    counted: a good key passes from a blocked address, a token not seen before waits (its signature is what costs)."""

    def __init__(self, scripts: Scripts, per_minute: int) -> None:
        self._scripts = scripts
        self._per_minute = per_minute
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    def wait_s(self, address: str, now: int) -> int:
        """Seconds until the address may fail again; 0 when it may now. `now` in microseconds since the epoch."""
        window = self._windows.get(attempts_origin(address))
        if window is None or window.ends_at <= now or window.count <= self._per_minute:
            return 0
        return max(1, -(-(window.ends_at - now) // _SECOND_US))

    async def count(self, address: str, now: int) -> int:
        """Count a failure, and return `wait_s` with it counted. A blocked address costs Valkey nothing."""
        wait_s = self.wait_s(address, now)
        if wait_s:
            return wait_s
        origin = attempts_origin(address)
        try:
            count, left_s = await self._scripts.run(_COUNT, [f"sekisho:failed:{origin}"], [_MINUTE_S])
        except (RedisError, OSError):
            count, left_s = self._alone(origin, now)
        self._keep(origin, _Window(now + max(1, left_s) * _SECOND_US, count))
        return self.wait_s(address, now)

    def _alone(self, origin: str, now: int) -> tuple[int, int]:
        window = self._windows.get(origin)
        if window is None or window.ends_at <= now:
            return 1, _MINUTE_S
        return window.count + 1, -(-(window.ends_at - now) // _SECOND_US)

    def _keep(self, origin: str, window: _Window) -> None:
        self._windows[origin] = window
        self._windows.move_to_end(origin)
        if len(self._windows) > ORIGINS_MAX:
            self._windows.popitem(last=False)
