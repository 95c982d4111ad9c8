"""The keys of tenants' OpenID issuers: discovery, a cache per issuer, rotation.

Keys are used for 10 min and then read again. An unknown key id is a reason to ask at once, but an issuer is asked at
most every 10 s. While it does not answer, keys that it once gave serve for an hour; then its tokens are refused, since
a key that it withdrew cannot be told from one in force.
"""

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from gateway.faults import Fault
from gateway.identity.fetch import Fetcher, Unreachable
from gateway.identity.jose import Header, VerifyingKey, candidates, verifying_keys
from gateway.identity.settings import Networks

_LOG = logging.getLogger(__name__)

FRESH_US = 10 * 60 * 1_000_000
STALE_US = 60 * 60 * 1_000_000
ASK_AGAIN_US = 10 * 1_000_000
ISSUERS_MAX = 4_096
DISCOVERY_PATH = "/.well-known/openid-configuration"


@dataclass(slots=True)
class _Known:
    keys: tuple[VerifyingKey, ...] = ()
    read_at: int | None = None
    asked_at: int | None = None
    asking: "asyncio.Task[None] | None" = None

    def age(self, now: int) -> int:
        return STALE_US if self.read_at is None else now - self.read_at


class IssuerKeys:
    """Public keys by issuer URL. Times in microseconds since the epoch. Each issuer has its own set: equal key ids, or
    even equal keys, at two issuers have nothing to do with each other."""

    def __init__(self, networks: Networks) -> None:
        self._fetcher = Fetcher(networks)
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def holds(self, issuer: str, thumbprint: str, now: int) -> bool:
        """Whether a key is certainly among the issuer's keys, without asking it."""
        known = self._known.get(issuer)
        return (
            known is not None and known.age(now) < FRESH_US and any(key.thumbprint == thumbprint for key in known.keys)
        )

    async def candidates(self, issuer: str, header: Header, now: int) -> tuple[VerifyingKey, ...]:
        """The issuer's keys that may have signed a token with `header`. Raises `Fault("issuer_unavailable")`."""
        known = self._entry(issuer)
        if known.age(now) < FRESH_US:
            found = candidates(known.keys, header)
            if found:
                return found
        await self._ask(issuer, known, now)
        if known.age(now) >= STALE_US:
            raise Fault("issuer_unavailable", retry_after_s=ASK_AGAIN_US // 1_000_000, internal=issuer)
        return candidates(known.keys, header)

    def _entry(self, issuer: str) -> _Known:
        known = self._known.setdefault(issuer, _Known())
        self._known.move_to_end(issuer)
        if len(self._known) > ISSUERS_MAX:
            self._known.popitem(last=False)
        return known

    async def _ask(self, issuer: str, known: _Known, now: int) -> None:
        """Read the keys; all who want them at the same time wait for one reading."""
        if known.asking is None:
            if known.asked_at is not None and now - known.asked_at < ASK_AGAIN_US:
                return
            known.asked_at = now
            known.asking = asyncio.create_task(self._read(issuer, known, now))
        await asyncio.shield(known.asking)

    async def _read(self, issuer: str, known: _Known, now: int) -> None:
        try:
            known.keys = await self._keys_of(issuer)
            known.read_at = now
        except Unreachable as error:
            _LOG.warning("keys of the issuer %s could not be read: %s", issuer, error)
        finally:
            known.asking = None

    async def _keys_of(self, issuer: str) -> tuple[VerifyingKey, ...]:
        document: Any = await self._fetcher.json(issuer.rstrip("/") + DISCOVERY_PATH)
        if not isinstance(document, dict) or document.get("issuer") != issuer:
            raise Unreachable("the discovery document is of another issuer")  # OpenID Connect Discovery 1.0 §4.3
        jwks_uri = document.get("jwks_uri")
        if not isinstance(jwks_uri, str):
            raise Unreachable("the discovery document names no jwks_uri")
        keys = verifying_keys(await self._fetcher.json(jwks_uri))
        if not keys:
            raise Unreachable("the issuer has no usable key")
        return keys

    async def close(self) -> None:
        """Wait for readings under way, then close the connections."""
        asking = [known.asking for known in self._known.values() if known.asking is not None]
        await asyncio.gather(*asking, return_exceptions=True)
        await self._fetcher.close()
