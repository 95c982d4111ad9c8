"""Long questions: a tenant waits for its own and for nobody else's."""

import asyncio

from gateway.edge.queries import LINKS, Queries
from tests.conftest import Stores


async def test_one_tenants_questions_run_one_by_one_and_keep_no_other_waiting(stores: Stores) -> None:
    queries = Queries(stores.dsn)
    greedy = [asyncio.create_task(queries.of("t-1").fetch("SELECT pg_sleep(0.5)")) for _ in range(2 * LINKS)]
    await asyncio.sleep(0)
    (row,) = await queries.of("t-2").fetch("SELECT 1 AS one")
    assert row["one"] == 1
    assert not any(one.done() for one in greedy)
    for one in greedy:
        one.cancel()
    await asyncio.gather(*greedy, return_exceptions=True)
    await queries.close()
