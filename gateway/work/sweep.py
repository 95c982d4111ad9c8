"""The sweep: holds that nobody will end are ended; their row is final, or their process died before it wrote one."""

import logging

from billing.link import Link
from billing.recovery import finals
from gateway.clock import now_us
from gateway.limits.holds import HeldEntry, Holds, Release
from gateway.work.liveness import Liveness

_LOG = logging.getLogger(__name__)

HOLD_AGE_S_MIN = 5
# A living process writes the row right after the hold; a hold without one is left of an answer that got lost.
ROWLESS_HOLD_S_MAX = 60
BATCH_ROWS = 100


class Sweep:
    """Of the leader."""

    def __init__(self, link: Link, holds: Holds, liveness: Liveness) -> None:
        self._link = link
        self._holds = holds
        self._liveness = liveness

    async def run(self, now: float) -> None:
        """Look at every hold that is old enough, at the monotonic time `now` (seconds)."""
        old = now_us() // 1_000_000 - HOLD_AGE_S_MIN
        batch: list[HeldEntry] = []
        async for entry in self._holds.entries():
            if entry.held_at <= old:
                batch.append(entry)
            if len(batch) == BATCH_ROWS:
                await self._end_holds(batch, now)
                batch = []
        await self._end_holds(batch, now)

    async def _end_holds(self, entries: list[HeldEntry], now: float) -> None:
        if not entries:
            return
        rows = await finals(self._link, [entry.request_id for entry in entries])
        rowless = now_us() // 1_000_000 - ROWLESS_HOLD_S_MAX
        for entry in entries:
            row = rows.get(entry.request_id)
            if row is not None and row.final:
                tokens, micro_yen = row.tokens, row.micro_yen
            elif row is None and (entry.held_at < rowless or not self._liveness.alive(entry.instance_id, now)):
                tokens, micro_yen = 0, 0
            else:
                continue
            await self._holds.release(Release(entry.request_id, entry.tenant_id, entry.period, tokens, micro_yen))
            _LOG.info("ended the hold of %s", entry.request_id)
