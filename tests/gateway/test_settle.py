"""The end of an exchange whose `open` row failed while nobody knows whether it is still on its way."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import asyncpg
import pytest
import pytest_asyncio

from billing.journal import Journal
from billing.link import StoreUnavailable
from billing.spool import Spool
from gateway.edge.exchange import Exchange
from gateway.edge.progress import Progress
from gateway.edge.refusals import Refusals
from gateway.edge.settle import Settler
from gateway.faults import Fault
from gateway.identity.access import Access, Principal
from gateway.limits.holds import Holds
from gateway.repeats.service import Repeats
from gateway.upstreams.witness import Witness
from tests.conftest import Stores, a_tenant

WAIT_S_MAX = 10.0
_OPEN = """
INSERT INTO journal (request_id, tenant_id, key_id, model, action, epoch, instance_id, state, opened_at)
VALUES ($1::text::uuid, $2, 'k', 'm', 'chat', 1, 'gateway-1', 'open', now())
"""
_FOUND = "SELECT state, outcome, code, key_id FROM journal WHERE request_id = $1::text::uuid"
_AUDITS = "SELECT count(*) FROM audit_pending WHERE request_id = $1::text::uuid"


@dataclass(frozen=True)
class Ending:
    """A settler on a real journal; what it needs for exchanges with a hold, a claim or a byte is not there."""

    settler: Settler
    journal: Journal

    async def conclude(self, exchange: Exchange) -> None:
        """Settle, to the end."""
        self.settler.conclude(exchange)
        assert await self.settler.drain(WAIT_S_MAX) == 0


@pytest_asyncio.fixture
async def ending(stores: Stores, tmp_path: Path) -> AsyncIterator[Ending]:
    journal = Journal(stores.dsn)
    spool = Spool(tmp_path, "gateway-1")
    holds, witness, repeats = cast(Holds, None), cast(Witness, None), cast(Repeats, None)
    refusals = Refusals(journal, "gateway-1")
    yield Ending(Settler(journal, holds, Progress(journal), refusals, witness, repeats, spool), journal)
    await journal.close()
    spool.close()


def an_exchange(error: Exception) -> Exchange:
    """Its `open` row failed with `error`, so nothing was delivered."""
    opened: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    opened.set_exception(error)
    principal = Principal(Access("k", "key", a_tenant().tenant_id))
    exchange = Exchange("chat", "gateway-1", principal=principal, model="m", opened=opened, attempt=1)
    exchange.fail(Fault("store_unavailable"))
    return exchange


@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_open_row_that_was_given_up_and_comes_late_is_voided_all_the_same(
    stores: Stores, database: Any, ending: Ending, end: str
) -> None:
    exchange = an_exchange(StoreUnavailable("the disk stands still"))
    assert exchange.principal is not None
    other = await asyncpg.connect(stores.dsn)  # the session that was left alone in the middle of its commit
    flying = other.transaction()
    await flying.start()
    await other.execute(_OPEN, exchange.request_id, exchange.principal.tenant_id)
    concluded = asyncio.create_task(ending.conclude(exchange))
    await asyncio.sleep(0.3)
    await (flying.commit() if end == "commit" else flying.rollback())
    await other.close()
    await concluded
    row = await database.fetchrow(_FOUND, exchange.request_id)
    assert tuple(row or ()) == ("voided", "refused_capacity", "store_unavailable", "k")
    assert await database.fetchval(_AUDITS, exchange.request_id) == 1


async def test_open_row_that_the_database_refused_leaves_none(database: Any, ending: Ending) -> None:
    exchange = an_exchange(asyncpg.CheckViolationError("no partition"))
    await ending.conclude(exchange)
    assert await database.fetchrow(_FOUND, exchange.request_id) is None
