"""A real OpenID issuer on loopback: discovery and JWKS over HTTP, with keys that can be rotated and a way to fail."""

import json
from collections import Counter
from ipaddress import ip_network
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from joserfc.jwk import Key

from gateway.identity.credentials import OidcIssuer
from tests.gateway.identity.making import NOW_S, a_key, an_access, jwks_of, signed

AUDIENCE = "https://gateway.example.jp"
LOOPBACK = (ip_network("127.0.0.0/8"),)


class LoopbackIssuer:
    """`answer` replaces the answer of a path by a status and body; `asked` counts requests by path."""

    def __init__(self) -> None:
        self.keys: list[Key] = [a_key("ES256", "k1")]
        self.asked: Counter[str] = Counter()
        self.answer: dict[str, web.Response] = {}
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._serve)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def registered(self, issuer_id: str = "oi_1", **fields: Any) -> OidcIssuer:
        """The row of this issuer, tenant-a's unless `fields` say otherwise."""
        return OidcIssuer(an_access(issuer_id, "issuer", **fields), self.url, AUDIENCE)

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _serve(self, request: web.Request) -> web.Response:
        self.asked[request.path] += 1
        if request.path in self.answer:
            return self.answer.pop(request.path)
        if request.path == "/.well-known/openid-configuration":
            return web.Response(body=json.dumps({"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}))
        return web.Response(body=json.dumps(jwks_of(*self.keys)))

    def token(
        self, *, key: Key | None = None, alg: str = "ES256", header: dict[str, Any] | None = None, **claims: Any
    ) -> str:
        """An access token of this issuer for the gateway, good for an hour; None leaves a claim out."""
        said = {"iss": self.url, "aud": AUDIENCE, "sub": "service-1", "exp": NOW_S + 3600, "iat": NOW_S, **claims}
        said = {name: value for name, value in said.items() if value is not None}
        return signed(key or self.keys[-1], alg, said, **(header or {}))
