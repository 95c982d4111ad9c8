"""Progress of running requests: what streams have used, every 32 tokens or 250 ms, in one statement for all of them."""

import asyncio
import logging

from billing.journal import Journal, Mark
from billing.types import Usage
from gateway.clock import now_us

_LOG = logging.getLogger(__name__)

TICK_S = 0.25
TOKENS_MAX = 32
# Between two writes for the sake of `TOKENS_MAX`: many fast streams share one.
GAP_S = 0.02


class Progress:
    """Keeps the latest usage of each running stream, and which attempts wait for their first byte; `run` writes what
    changed in one statement per tick."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._changed: dict[str, tuple[int, Usage]] = {}
        self._written: dict[str, int] = {}
        self._sent: dict[str, int] = {}
        self._waiting: dict[str, int] = {}
        self._due = asyncio.Event()

    def sent(self, request_id: str, attempt: int) -> None:
        """The attempt is on its way to the engine. Written down only if no byte has come for a tick: most come sooner,
        and then the first byte's own mark says it all. A second attempt is written at once."""
        self._sent[request_id] = attempt
        if attempt > 1:
            self._due.set()

    def begun(self, request_id: str) -> None:
        """Its first byte is here."""
        self._sent.pop(request_id, None)
        self._waiting.pop(request_id, None)

    def note(self, request_id: str, attempt: int, usage: Usage) -> None:
        """The stream has used this much so far."""
        self._changed[request_id] = (attempt, usage)
        if usage.completion - self._written.get(request_id, 0) >= TOKENS_MAX:
            self._due.set()

    def forget(self, request_id: str) -> None:
        """The request is being settled: its checkpoints are of no more use."""
        self.begun(request_id)
        self._changed.pop(request_id, None)
        self._written.pop(request_id, None)

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._pause()
            marks = self._marks(now_us())
            results = await asyncio.gather(*(self._journal.marks.put(mark) for mark in marks), return_exceptions=True)
            failed = [result for result in results if isinstance(result, BaseException)]
            if failed:
                _LOG.warning("%d checkpoints were not written: %r", len(failed), failed[0])

    async def _pause(self) -> None:
        await asyncio.sleep(GAP_S)
        try:
            async with asyncio.timeout(TICK_S - GAP_S):
                await self._due.wait()
        except TimeoutError:
            return
        finally:
            self._due.clear()

    def _marks(self, at: int) -> list[Mark]:
        changed, self._changed = self._changed, {}
        self._written.update({request_id: usage.completion for request_id, (_, usage) in changed.items()})
        late = self._waiting | {request_id: attempt for request_id, attempt in self._sent.items() if attempt > 1}
        self._waiting, self._sent = {name: n for name, n in self._sent.items() if name not in late}, {}
        return [
            *(Mark(request_id, attempt, False, Usage(), at, sent=True) for request_id, attempt in late.items()),
            *(Mark(request_id, attempt, False, usage, at) for request_id, (attempt, usage) in changed.items()),
        ]
