"""The routes of the authorization server, asked over HTTP."""

from typing import Any

import httpx
from starlette.applications import Starlette

from gateway.edge.oauth import routes
from gateway.faults import Fault
from gateway.identity.credentials import Credentials
from gateway.identity.grants import TOKEN_PATH
from gateway.identity.service import Identifier
from tests.gateway.identity.making import BASE, NOW, a_key, credentials_of

KEY = a_key("ES256")


class Server:
    """The routes of one process, asked over HTTP. `credentials` and `now` are what the process sees."""

    def __init__(self, identifier: Identifier) -> None:
        self.identifier = identifier
        self.credentials = credentials_of()
        self.now = NOW
        self._app = Starlette(routes=routes(identifier, self._current, lambda: self.now))
        self._current_fault: Fault | None = None
        self.http = self.client_at("2001:db8:ffff::1")

    def client_at(self, address: str) -> httpx.AsyncClient:
        """A client at a network address."""
        return httpx.AsyncClient(transport=httpx.ASGITransport(self._app, client=(address, 1)), base_url=BASE)

    def fail(self, fault: Fault) -> None:
        """Let the process have no credentials to decide by."""
        self._current_fault = fault

    def _current(self) -> Credentials:
        if self._current_fault is not None:
            raise self._current_fault
        return self.credentials

    async def ask(self, form: dict[str, str], **headers: str) -> tuple[int, dict[str, Any]]:
        """Status and document of a token request."""
        response = await self.http.post(TOKEN_PATH, data=form, headers=headers)
        assert response.headers["cache-control"] == "no-store"
        assert ("www-authenticate" in response.headers) == (response.status_code == 401)
        return response.status_code, response.json()
