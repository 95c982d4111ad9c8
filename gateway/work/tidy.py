"""Tidying: partitions ahead, and the end of what is kept no longer. Every step is idempotent: any worker may do it."""

from functools import partial

from billing.link import Link
from billing.recovery import sweep_checkpoints
from billing.witnessed import FORGOTTEN_ROWS_MAX, RECORD_TABLES, forget
from gateway.limits.holds import Holds
from gateway.repeats.store import EXPIRE_ROWS_MAX, expire
from gateway.webhooks.store import PURGE_ROWS_MAX, purge
from gateway.work.steps import emptied, step

TIDY_EVERY_S = 60.0
STATEMENT_S_MAX = 60.0

_FORGET_INSTANCES = """
DELETE FROM instance i WHERE i.heartbeat_at < now() - interval '1 day'
AND NOT EXISTS (SELECT FROM journal j WHERE j.instance_id = i.instance_id
  AND j.state IN ('open', 'dispatched', 'streaming'))
"""


class Tidy:
    """On a connection of its own: what it deletes may take long, and recovery must not wait for it."""

    def __init__(self, dsn: str, holds: Holds) -> None:
        self._link = Link(dsn, command_s_max=STATEMENT_S_MAX)
        self._holds = holds

    async def round(self) -> None:
        """All of it once."""
        link = self._link
        await step("partitions", link.fetch("SELECT journal_ensure_partitions(now(), 3)"))
        await step("old partitions", link.fetch("SELECT journal_retire_partitions()"))
        await step("checkpoints", sweep_checkpoints(link))
        await step("instances", link.fetch(_FORGET_INSTANCES))
        await step("generations of limits", self._holds.tidy())
        await emptied("idempotency keys", partial(expire, link), EXPIRE_ROWS_MAX)
        await emptied("webhook events", partial(purge, link), PURGE_ROWS_MAX)
        for table in RECORD_TABLES:
            await emptied(table, partial(forget, link, table), FORGOTTEN_ROWS_MAX)

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()
