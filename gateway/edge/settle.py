"""Settlement, on tasks of its own that a client who leaves cannot cancel: journal and ledger first, then the hold."""

import asyncio
import logging

from asyncpg import PostgresError

from billing.journal import Journal
from billing.spool import Spool, SpoolFull
from billing.types import Outcome, Settlement, Usage
from gateway.edge.exchange import Exchange
from gateway.edge.progress import Progress
from gateway.edge.refusals import Refusals
from gateway.faults import Fault
from gateway.limits.holds import Holds, Release
from gateway.repeats.service import Claim, Repeats
from gateway.upstreams.witness import Witness

_LOG = logging.getLogger(__name__)

WITNESS_WAIT_S_MAX = 2.0
RETRY_S_MIN = 0.05
RETRY_S_MAX = 1.0  # a database that is back is noticed within that


class Settler:
    """Concludes exchanges. Every settlement runs in a tracked task; `drain` waits for all of them."""

    def __init__(
        self,
        journal: Journal,
        holds: Holds,
        progress: Progress,
        refusals: Refusals,
        witness: Witness,
        repeats: Repeats,
        spool: Spool,
    ) -> None:
        self._journal = journal
        self._holds = holds
        self._progress = progress
        self._refusals = refusals
        self._witness = witness
        self._repeats = repeats
        self._spool = spool
        self._tasks: set[asyncio.Task[None]] = set()

    def conclude(self, exchange: Exchange) -> None:
        """Settle `exchange` in a task of its own; `exchange.settled` tells when it stands."""
        work = self._conclude(exchange) if exchange.claim is None else self._conclude_claimed(exchange, exchange.claim)
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def check(self) -> None:
        """Raises `Fault` while as many settlements wait for the database as may."""
        if self._spool.full:
            raise Fault("store_unavailable", retry_after_s=1, internal="the spool is full")

    async def drain(self, limit_s: float) -> int:
        """Wait for running settlements, `limit_s` at most; returns how many did not finish (the worker's recovery
        settles those)."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=limit_s)
        return len(self._tasks)

    async def _conclude_claimed(self, exchange: Exchange, claim: Claim) -> None:
        """What was delivered to nobody gives its idempotency key back."""
        try:
            await self._conclude(exchange)
        finally:
            await self._repeats.end(claim, delivered=exchange.first_byte_at is not None)

    async def _conclude(self, exchange: Exchange) -> None:
        if exchange.opened is None:
            exchange.settled.set()
            self._refusals.note(exchange)
            await self._release(exchange, Usage(), 0)
            return
        await asyncio.wait([exchange.opened])
        self._progress.forget(exchange.request_id)
        try:
            await self._count(exchange)
            settlement = await self._store(exchange)
        except Exception:
            _LOG.critical("request %s could not be settled and its row stays open", exchange.request_id, exc_info=True)
            raise
        finally:
            exchange.settled.set()
        await self._release(exchange, settlement.usage, settlement.micro_yen)

    async def _count(self, exchange: Exchange) -> None:
        """The engine's last word on a stream: its own record when the stream did not end as it should, else what its
        chunks said."""
        if exchange.first_byte_at is None or exchange.source != "none":
            return
        meter = exchange.meter
        seen = meter is not None and meter.seen
        if exchange.upstream is not None and (exchange.outcome is not Outcome.COMPLETED or not seen):
            recorded = await self._witness.final(exchange.upstream, exchange.attempt_id, WITNESS_WAIT_S_MAX)
            if recorded is not None:
                exchange.count(recorded.usage, "witness")
                return
        if meter is not None and seen:
            exchange.count(meter.usage(), "engine")
        else:
            _LOG.error("request %s was delivered and the engine never said how much it used", exchange.request_id)

    async def _store(self, exchange: Exchange) -> Settlement:
        settlement = exchange.settlement()
        delay = RETRY_S_MIN
        while True:
            try:
                stored = await self._put(exchange, settlement)
            except PostgresError as error:
                await self._bury(settlement, error)
                break
            except OSError as error:
                _LOG.warning("settlement of %s waits for the database: %s", exchange.request_id, error)
                await self._keep(exchange, settlement)
                await asyncio.sleep(delay)
                delay = min(2 * delay, RETRY_S_MAX)
            else:
                if not stored and settlement.state == "settled":
                    _LOG.error("the row of %s was final before its settlement came", exchange.request_id)
                break
        await self._spool.stored(settlement.request_id)
        return settlement

    async def _put(self, exchange: Exchange, settlement: Settlement) -> bool:
        """Store the settlement. Where there is no row, and nobody knows whether the `open` row that failed is still on
        its way (a disk that stands still, a connection that broke), a final one takes its place: else it would stay
        open, of a process that lives. The database lets that one wait for the other."""
        if await self._journal.settlements.put(settlement):
            return True
        opened = exchange.opened
        if opened is None or not isinstance(opened.exception(), OSError):
            return False
        return await self._journal.voids.put(exchange.refusal()) or await self._journal.settlements.put(settlement)

    async def _keep(self, exchange: Exchange, settlement: Settlement) -> None:
        """Put the settlement on disk: then it stands, whatever becomes of this process, and the answer may end."""
        try:
            await self._spool.keep(settlement)
            exchange.settled.set()
        except (OSError, SpoolFull) as error:
            _LOG.critical("settlement of %s is in memory only: %r", settlement.request_id, error)

    async def _bury(self, settlement: Settlement, refused: PostgresError) -> None:
        try:
            await self._journal.bury(settlement, repr(refused))
        except (OSError, PostgresError) as error:
            _LOG.critical("%s could not be buried either: %r: %r", settlement.request_id, error, settlement)

    async def _release(self, exchange: Exchange, usage: Usage, micro_yen: int) -> None:
        hold = exchange.hold
        if hold is None:
            return
        release = Release(hold.request_id, hold.tenant_id, hold.period, usage.total, micro_yen)
        try:
            await self._holds.release(release)
        except Exception as error:
            _LOG.warning("hold of %s is left to the worker's sweep: %r", exchange.request_id, error)
