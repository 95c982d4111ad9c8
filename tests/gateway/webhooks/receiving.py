"""A receiver of webhooks on loopback, and the rows that lead to it."""

import asyncio
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from aiohttp import web

from gateway.tenancy.keystore import KeyFiles
from gateway.webhooks import signing
from gateway.webhooks.deliver import Deliverer
from gateway.webhooks.events import Event, EventType, new_event
from gateway.webhooks.store import publish

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
AT_US = 1_795_489_348_000_000


class Receiver:
    """Answers what `answer` says, and keeps headers and bodies of what it was sent."""

    def __init__(self, answer: Callable[[], web.StreamResponse] | None = None) -> None:
        self.answer = answer or web.Response
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.paths: list[str] = []
        self.url = ""
        self.asked, self.hangs = asyncio.Event(), asyncio.Event()
        self.hangs.set()

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}/hook"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    @property
    def ids(self) -> list[str]:
        """The `webhook-id` of everything that came, in order."""
        return [headers["webhook-id"] for headers, _ in self.got]

    async def _take(self, request: web.Request) -> web.StreamResponse:
        self.paths.append(request.path)
        self.got.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        self.asked.set()
        await self.hangs.wait()
        return self.answer()


class Book:
    """Tenants and endpoints in the book, and a deliverer that may reach loopback."""

    def __init__(self, dsn: str, database: Any, folder: Path) -> None:
        self.dsn = dsn
        self.database = database
        self.keys = KeyFiles(folder)
        self.deliverer = Deliverer(dsn, self.keys, LOOPBACK)

    async def tenant(self) -> str:
        """A new tenant."""
        tenant_id = f"t-{uuid4().hex[:12]}"
        await self.database.execute(
            "INSERT INTO tenant (tenant_id, legal_name, tokens_month, micro_yen_month, rpm, concurrency)"
            " VALUES ($1, $1, 1, 1, 1, 1)",
            tenant_id,
        )
        return tenant_id

    async def endpoint(self, tenant_id: str, url: str, events: list[str] | None = None) -> tuple[str, str]:
        """A new endpoint: its id and its secret."""
        endpoint_id, secret = f"we_{uuid4().hex[:12]}", signing.new_secret()
        sealed = signing.sealed(secret, self.keys.current(tenant_id), endpoint_id)
        await self.database.execute(
            "INSERT INTO webhook_endpoint (endpoint_id, tenant_id, url, events, secret) VALUES ($1, $2, $3, $4, $5)",
            endpoint_id, tenant_id, url, events, sealed,
        )  # fmt: skip
        return endpoint_id, secret

    async def happen(self, tenant_id: str, type_: EventType = "limit.soft_reached", dedupe: str | None = None) -> Event:
        """An event, published."""
        event = new_event(tenant_id, type_, {"used": "関所"}, AT_US, dedupe)
        await publish(self.database, event)
        return event

    async def deliver(self, deliverer: Deliverer | None = None) -> int:
        """Deliver what is due now; returns how many attempts that were."""
        one = deliverer or self.deliverer
        begun = await one.begin_due()
        await one.drain()
        return begun

    async def delivery(self, endpoint_id: str) -> dict[str, Any]:
        """The endpoint's only delivery."""
        rows = await self.database.fetch(
            "SELECT *, extract(epoch FROM next_at - now())::float AS in_s FROM webhook_delivery WHERE endpoint_id = $1",
            endpoint_id,
        )
        assert len(rows) == 1
        return dict(rows[0])

    async def endpoint_row(self, endpoint_id: str) -> dict[str, Any]:
        """The endpoint as it is now."""
        return dict(await self.database.fetchrow("SELECT * FROM webhook_endpoint WHERE endpoint_id = $1", endpoint_id))

    async def its_time_comes(self, endpoint_id: str, attempts: int | None = None) -> None:
        """What waits for the endpoint is due; with `attempts`, after so many failed ones."""
        await self.database.execute(
            "UPDATE webhook_delivery SET next_at = now(), attempts = coalesce($2, attempts) WHERE endpoint_id = $1",
            endpoint_id, attempts,
        )  # fmt: skip
