"""How long an engine's record of an attempt is waited for, before recovery takes less than that."""

from dataclasses import dataclass

from gateway.upstreams.witness import State

UNKNOWN_S_MAX = 10.0
"""An engine, or the reader of its records, that answers and knows of no such attempt: it may be about to read it."""
SILENT_S_MAX = 120.0
"""An engine that does not answer, or is still at it: it may be on its way back, or about to end the attempt."""
QUESTIONS_MIN = 5
"""Rounds that take long must not make one question or two look like a long silence."""


@dataclass(slots=True)
class _Waiting:
    since: float
    questions: int = 0
    unknown_since: float | None = None


class Patience:
    """Counts from the first question about each attempt, in seconds of a monotonic clock: a recovery that was itself
    held up has waited for nobody."""

    def __init__(self) -> None:
        self._waiting: dict[str, _Waiting] = {}
        self._asked: set[str] = set()

    def ended(self, attempt_id: str, said: State | None, now: float) -> bool:
        """Whether `said`, what was answered just now (None for nothing), is the last that is waited for."""
        self._asked.add(attempt_id)
        waiting = self._waiting.setdefault(attempt_id, _Waiting(now))
        waiting.questions += 1
        enough = now - waiting.since >= SILENT_S_MAX
        if said == "unknown":
            if waiting.unknown_since is None:
                waiting.unknown_since = now
            enough = now - waiting.unknown_since >= UNKNOWN_S_MAX
        return enough and waiting.questions >= QUESTIONS_MIN

    def round_ended(self) -> None:
        """Begin anew with every attempt that nobody asked about in this round: its row is final, or its process lives
        after all."""
        self._waiting = {attempt_id: self._waiting[attempt_id] for attempt_id in self._asked}
        self._asked = set()
