"""Progress of running streams, written every 250 ms for all of them together."""

import asyncio
import logging

from billing.journal import Journal, Mark
from billing.types import Usage
from gateway.clock import now_us

_LOG = logging.getLogger(__name__)

TICK_S = 0.25


class Progress:
    """Keeps the latest usage of each running stream; `run` writes what changed in one statement per tick."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._changed: dict[str, tuple[int, Usage]] = {}

    def note(self, request_id: str, attempt: int, usage: Usage) -> None:
        """The stream has used this much so far."""
        self._changed[request_id] = (attempt, usage)

    def forget(self, request_id: str) -> None:
        """The stream is settled: its checkpoints are of no more use."""
        self._changed.pop(request_id, None)

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            changed, self._changed = self._changed, {}
            futures = [
                self._journal.marks.put(Mark(request_id, attempt, False, usage, now_us()))
                for request_id, (attempt, usage) in changed.items()
            ]
            results = await asyncio.gather(*futures, return_exceptions=True)
            failed = [result for result in results if isinstance(result, BaseException)]
            if failed:
                _LOG.warning("%d checkpoints were not written: %r", len(failed), failed[0])
