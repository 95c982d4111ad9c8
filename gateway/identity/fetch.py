"""Reads small JSON documents from OpenID issuers, and from nobody else.

Issuer URLs are configuration, but what stands behind a name changes, and an issuer's own document names the next URL.
So every address is judged at the moment it is connected to: public ones pass, others only inside the networks that the
operator names. No redirects, no proxy, no decompression; 256 KiB and 3 s at most.
"""

import socket
from ipaddress import IPv6Address, ip_network
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult

from gateway.identity.addresses import Address, inside, parse_address
from gateway.identity.settings import Networks

DOCUMENT_BYTES_MAX = 256 * 1024
FETCH_S_MAX = 3.0
# IPv6 that carries an IPv4 address inside (6to4, Teredo, NAT64, "compatible"): what it reaches cannot be told from its
# own range. Site-local addresses are old, and some networks still route them to the inside.
_CARRIERS: Networks = tuple(
    ip_network(text) for text in ("2002::/16", "2001::/32", "64:ff9b::/96", "64:ff9b:1::/48", "::/96", "fec0::/10")
)


class Unreachable(Exception):
    """The document could not be read; the message says why, for the operator."""


class NotPermitted(OSError):
    """The address is not one that we connect to."""


def permitted(address: Address | None, networks: Networks) -> bool:
    """Whether somebody we ask may live at `address`."""
    if address is None or address.is_multicast:
        return False
    carried = isinstance(address, IPv6Address) and inside(address, _CARRIERS)
    return inside(address, networks) or (address.is_global and not carried)


class GuardedResolver(AbstractResolver):
    """Resolves a name to addresses of which every one is permitted, or not at all. What it gives is what is connected
    to, so a name cannot change its mind in between."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        if not all(permitted(parse_address(entry["host"]), self._networks) for entry in found):
            raise NotPermitted(f"{host} has an address that is not permitted")
        return found

    async def close(self) -> None:
        await self._resolver.close()


def check_url(url: str, networks: Networks) -> None:
    """An address written as such passes no resolver, so it is judged here. Raises `Unreachable`."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        raise Unreachable(f"{url!r} is no URL") from None
    literal = parse_address(host)
    if literal is None and _is_short_address(host):
        raise Unreachable(f"{url}: an address has four decimal parts")
    local = host == "localhost" or (literal is not None and literal.is_loopback)
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise Unreachable(f"{url}: only https is asked")
    if literal is not None and not permitted(literal, networks):
        raise Unreachable(f"{url}: the address is not permitted")


def _is_short_address(host: str) -> bool:
    """Whether the C library would read `host` as an IPv4 address: 127.1, 2130706433, 0x7f.1 (inet_aton(3))."""
    try:
        socket.inet_aton(host)
    except (OSError, ValueError):
        return False
    return True


class Fetcher:
    """One HTTP client for all issuers of a process; must be used inside one event loop."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._session: aiohttp.ClientSession | None = None

    async def json(self, url: str) -> Any:
        """The JSON document at `url`. Raises `Unreachable`."""
        check_url(url, self._networks)
        try:
            async with self._client().get(url, allow_redirects=False) as response:
                if response.status != 200 or "Content-Encoding" in response.headers:
                    raise Unreachable(f"{url}: status {response.status}, or an encoded answer")
                return msgspec.json.decode(await _read(response))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, RecursionError) as error:
            raise Unreachable(f"{url}: {error!r}") from error

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=GuardedResolver(self._networks), limit=8, use_dns_cache=False),
                timeout=aiohttp.ClientTimeout(total=FETCH_S_MAX),
                headers={"accept": "application/json", "accept-encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        return self._session

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()


async def _read(response: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > DOCUMENT_BYTES_MAX:
            raise Unreachable(f"{response.url}: more than {DOCUMENT_BYTES_MAX} bytes")
        parts.append(part)
    return b"".join(parts)
