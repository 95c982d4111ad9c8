"""Refusals beyond the rows that one tenant gets: counted exactly, however often a count is sent."""

from typing import Any

import uuid_utils

from billing.journal import Journal, RefusalCount
from gateway.edge.exchange import Exchange
from gateway.edge.refusals import Refusals
from gateway.heartbeat import Heartbeat
from tests.billing.rows import NOW
from tests.conftest import Stores


async def test_counts_whose_answer_got_lost_count_once(stores: Stores, database: Any, monkeypatch: Any) -> None:
    instance_id, origin = f"gateway-{uuid_utils.uuid7()}", f"o-{uuid_utils.uuid7()}"
    heartbeat = Heartbeat(stores.dsn, instance_id, "gateway")
    await heartbeat.beat()
    journal = Journal(stores.dsn)
    refusals = Refusals(journal, instance_id)
    stored = journal.count_refusals

    async def lost(counts: list[RefusalCount], instance: str, flush: int) -> None:
        await stored(counts, instance, flush)
        raise OSError("the answer got lost")

    async def counted() -> Any:
        return await database.fetchval("SELECT sum(n)::bigint FROM refusal_count WHERE origin = $1", origin)

    def refused(times: int) -> None:
        for _ in range(times):
            refusals.note(Exchange("chat", instance_id, opened_at=NOW, origin=origin))

    refused(3)
    monkeypatch.setattr(journal, "count_refusals", lost)
    await refusals.flush()
    refused(2)
    await refusals.flush()
    assert await counted() == 3
    monkeypatch.setattr(journal, "count_refusals", stored)
    await refusals.flush()
    assert await counted() == 3
    await refusals.flush()
    assert await counted() == 5
    await journal.close()
    await heartbeat.retire()
