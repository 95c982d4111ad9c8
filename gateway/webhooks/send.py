"""One attempt to deliver: a POST to a checked address, without redirects; of its answer only the status is looked at.

A tenant chooses the URL, so it is judged like an issuer's (`gateway.identity.fetch`): at the moment of connecting,
every address that the name has must be public, or inside the networks that the operator names for receivers on site.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

from gateway.identity.fetch import GuardedResolver, NotPermitted, Unreachable, check_url
from gateway.identity.settings import Networks

ATTEMPT_S_MAX = 10.0
_HEADERS = {"content-type": "application/json", "user-agent": "Sekisho-Webhooks/1", "accept-encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Sent:
    """The receiver's status, None when there was no answer; `error` is a word for why, '' for a 2xx."""

    http_status: int | None
    error: str


class Sender:
    """The HTTP client of a process's deliveries. Connections are not kept: none is ever used for another tenant."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._session: aiohttp.ClientSession | None = None

    async def send(self, url: str, body: str, headers: Mapping[str, str]) -> Sent:
        """Raises nothing."""
        try:
            check_url(url, self._networks)
            async with self._client().post(
                url, data=body.encode(), headers={**_HEADERS, **headers}, allow_redirects=False
            ) as response:
                status = response.status
                response.close()  # what a receiver says is nobody's business
        except (Unreachable, NotPermitted):
            return Sent(None, "address_not_permitted")
        except TimeoutError:
            return Sent(None, "timeout")
        except aiohttp.ClientSSLError:
            return Sent(None, "tls")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            refused = isinstance(error.__cause__, NotPermitted) or isinstance(
                getattr(error, "os_error", None), NotPermitted
            )
            return Sent(None, "address_not_permitted" if refused else "connection")
        if 200 <= status < 300:
            return Sent(status, "")
        return Sent(status, "redirect" if 300 <= status < 400 else "status")

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=GuardedResolver(self._networks), limit=64, use_dns_cache=False, force_close=True
                ),
                timeout=aiohttp.ClientTimeout(total=ATTEMPT_S_MAX),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        return self._session

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
