"""Delivers what is due, a bounded number at once, beside the worker's rounds: a slow receiver delays no recovery.

Any number of workers may do it: a delivery is leased to one of them in the statement that finds it. At least once: a
worker that dies between the receiver's answer and its own note delivers again, under the same `webhook-id`.
"""

import asyncio
import logging
import random
from collections import Counter

from asyncpg import PostgresError

from billing.link import Link
from gateway.identity.settings import Networks
from gateway.tenancy.keystore import Sealed, TenantKeys
from gateway.webhooks.schedule import delay_s
from gateway.webhooks.send import Sender, Sent
from gateway.webhooks.signing import headers_of, unsealed
from gateway.webhooks.store import EACH_MAX, Delivery, Result, disable, due, record

_LOG = logging.getLogger(__name__)

TICK_S = 0.5
AT_ONCE = 32
GONE = 410
UNREADABLE = "its secret was destroyed with the tenant's key"


class Deliverer:
    """Delivers webhooks until it is stopped."""

    def __init__(self, dsn: str, keys: TenantKeys, networks: Networks = ()) -> None:
        self._link = Link(dsn)
        self._keys = keys
        self._sender = Sender(networks)
        self._running: dict[asyncio.Task[None], str] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver until `stop` is set."""
        while not stop.is_set():
            try:
                await self.begin_due()
            except (OSError, PostgresError) as error:
                _LOG.warning("webhooks wait for the database: %r", error)
            try:
                await asyncio.wait_for(stop.wait(), TICK_S)
            except TimeoutError:
                continue

    async def begin_due(self) -> int:
        """Begin what is due, as far as there is room; returns how many. Raises `OSError` or `PostgresError`."""
        room = AT_ONCE - len(self._running)
        if room <= 0:
            return 0
        running = Counter(self._running.values())
        busy = [endpoint_id for endpoint_id, n in running.items() if n >= EACH_MAX]
        found = await due(self._link, room, busy)
        for delivery in found:
            task = asyncio.create_task(self._deliver(delivery))
            self._running[task] = delivery.endpoint_id
            task.add_done_callback(self._running.pop)
        return len(found)

    async def drain(self) -> None:
        """Wait for what was begun; each takes 10 s at most."""
        if self._running:
            await asyncio.wait(list(self._running))

    async def close(self) -> None:
        """Finish what was begun, then close the connections."""
        await self.drain()
        await self._sender.close()
        await self._link.close()

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            sent = await self._send(delivery)
            if sent is None:
                await record(self._link, delivery, Result("failed", 0, None, "secret_destroyed"))
                await disable(self._link, delivery, UNREADABLE, at_once=True)
                return
            await self._note(delivery, sent)
        except (OSError, PostgresError) as error:
            _LOG.warning("%s to %s is repeated after its lease: %r", delivery.event_id, delivery.endpoint_id, error)

    async def _send(self, delivery: Delivery) -> Sent | None:
        """The receiver's answer; None when the endpoint's secret cannot be read any more."""
        stored = [one for one in (delivery.secret, delivery.old_secret) if one is not None]
        try:
            secrets = [unsealed(one, self._keys, delivery.tenant_id, delivery.endpoint_id) for one in stored]
        except Sealed:
            return None
        headers = headers_of(delivery.event_id, delivery.body, delivery.now, secrets)
        return await self._sender.send(delivery.url, delivery.body, headers)

    async def _note(self, delivery: Delivery, sent: Sent) -> None:
        if not sent.error:
            await record(self._link, delivery, Result("delivered", 0, sent.http_status, ""))
            return
        delay = delay_s(delivery.attempts, random.random())  # noqa: S311 # spreads load, keeps no secret
        gone = sent.http_status == GONE
        if delay is not None and not gone:
            await record(self._link, delivery, Result("pending", delay, sent.http_status, sent.error))
            return
        await record(self._link, delivery, Result("failed", 0, sent.http_status, sent.error))
        reason = "the receiver answered 410 Gone" if gone else f"{delivery.attempts} attempts failed: {sent.error}"
        if await disable(self._link, delivery, reason, at_once=gone):
            _LOG.warning("webhook %s of %s is disabled: %s", delivery.endpoint_id, delivery.tenant_id, reason)
