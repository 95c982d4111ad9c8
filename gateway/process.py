"""One gateway process: its parts, put together once; starting, readiness, draining."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import uuid_utils

from billing.journal import Journal
from billing.spool import Spool, replay
from gateway.clock import Clock
from gateway.edge.count import PromptCounter
from gateway.edge.deliver import Delivery
from gateway.edge.dispatch import Dispatcher
from gateway.edge.pipeline import Pipeline
from gateway.edge.progress import Progress
from gateway.edge.queries import Queries
from gateway.edge.refusals import Refusals
from gateway.edge.running import Running
from gateway.edge.settle import Settler
from gateway.faults import Fault
from gateway.heartbeat import Heartbeat
from gateway.identity.service import Identifier
from gateway.limits.holds import Holds
from gateway.repeats.service import Repeats
from gateway.settings import Settings
from gateway.tenancy.keystore import KeyFiles
from gateway.tenancy.standing import LimitView
from gateway.tenancy.uses import CredentialUses
from gateway.tenancy.watch import SnapshotWatch
from gateway.upstreams.client import UpstreamClient
from gateway.upstreams.witness import Witness
from gateway.work.steps import every

_LOG = logging.getLogger(__name__)

SPOOL_EVERY_S = 1.0


class Gateway:
    """All parts of a process. Use `running()`; must be built inside a running event loop."""

    def __init__(self, settings: Settings) -> None:
        dsn = settings.database_url
        self.instance_id = f"gateway-{uuid_utils.uuid7()}"
        self.draining = False
        self._settings = settings
        self.clock = Clock()
        self.identifier = Identifier(settings)
        running = Running(self.identifier, self.clock)
        self.watch = SnapshotWatch(dsn, self.clock, running.review)
        self.queries = Queries(dsn)
        self._uses = CredentialUses(dsn, self.identifier.uses)
        self._heartbeat = Heartbeat(dsn, self.instance_id, "gateway")
        self._journal = Journal(dsn)
        self.holds = Holds(settings.valkey_url, dsn)
        self.limits = LimitView(self.watch, self.holds, self.clock)
        self._client = UpstreamClient(settings.timeouts)
        self._progress = Progress(self._journal)
        self._refusals = Refusals(self._journal, self.instance_id)
        self._spool = Spool(settings.spool_dir, self.instance_id)
        self._repeats = Repeats(dsn, KeyFiles(settings.data_dir), self._heartbeat.steady_s)
        witness = Witness(self._client, settings.witness_token_file)
        self.settler = Settler(
            self._journal, self.holds, self._progress, self._refusals, witness, self._repeats, self._spool
        )
        self.pipeline = Pipeline(
            instance_id=self.instance_id,
            watch=self.watch,
            clock=self.clock,
            identifier=self.identifier,
            running=running,
            repeats=self._repeats,
            holds=self.holds,
            counter=PromptCounter(self._client),
            journal=self._journal,
            dispatcher=Dispatcher(self._client, self._progress, settings.timeouts),
            delivery=Delivery(self._journal, self._progress, self._repeats, settings.timeouts, self.holds),
            settler=self.settler,
        )

    async def unready(self) -> str | None:
        """Why this process should get no requests, or None when it should."""
        if self.draining:
            return "draining"
        if not self.watch.fresh:
            return "configuration is stale (PostgreSQL)"
        if self.clock.behind:
            return "clock_behind: this machine's clock is more than 2 s behind the book's"
        if self._spool.full:
            return "the spool is full: settlements wait for PostgreSQL"
        return self.holds.modes.problem

    @property
    def degraded(self) -> str | None:
        """What a process that serves does without, or None."""
        return "limits are kept by PostgreSQL (Valkey is away)" if self.holds.modes.degraded else None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Gateway"]:
        """Everything started on entry; on exit settlements are drained and the connections closed.

        Raises `OSError` when PostgreSQL is away at the start.
        """
        await self._heartbeat.beat()
        await self.watch.poll()
        with contextlib.suppress(Fault):  # not ready until a store of limits is found
            await self.holds.ready()
        loops = [
            asyncio.create_task(part.run())
            for part in (self.watch, self._heartbeat, self._progress, self._refusals, self._uses)
        ]
        # The worker may be on another machine: what died on this one is settled from here.
        spooled = every(
            asyncio.Event(), SPOOL_EVERY_S, "spool", lambda: replay(self._settings.spool_dir, self._journal)
        )
        loops.append(asyncio.create_task(spooled))
        try:
            yield self
        finally:
            left = await self.settler.drain(self._settings.drain_s)
            if left:
                _LOG.error("%d settlements did not finish; the worker recovers them", left)
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await self._close()

    async def _close(self) -> None:
        await self._refusals.flush()
        await self._uses.close()
        await self._repeats.close()
        await self.holds.close()
        await self._journal.close()
        self._spool.close()  # before anybody may take over our rows: what is on disk says more than they can find out
        await self._heartbeat.retire()
        await self.watch.close()
        await self.queries.close()
        await self._client.close()
        await self.identifier.close()
