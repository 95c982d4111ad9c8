"""Wall-clock time in the units of the book, and the clock that decisions go by: one that never runs backwards."""

import time
from collections.abc import Callable

BEHIND_US_MAX = 2_000_000


def now_us() -> int:
    """Microseconds since the Unix epoch (UTC)."""
    return time.time_ns() // 1_000


class Clock:
    """The time that licences, keys and tokens are judged by.

    A clock that was set back would bring an expired licence to life again. So the highest time ever stored (by any
    process, see `clock_mark`) is the floor: a small step back reads as that time, and more than 2 s behind it the clock
    is `behind` and nothing that depends on time may be decided.
    """

    def __init__(self, read: Callable[[], int] = now_us) -> None:
        self._read = read
        self._highest = 0
        self._seen = 0

    def learn(self, stored: int) -> None:
        """Take `stored` (microseconds since the epoch), the highest time that the book knows."""
        self._highest = max(self._highest, stored)

    @property
    def behind(self) -> bool:
        """Whether this machine's clock cannot be believed."""
        return self._read() < self._highest - BEHIND_US_MAX

    def now(self) -> int:
        """Microseconds since the epoch, never less than the highest time stored, nor after a small step back than what
        this process has already seen. (After a larger one only the stored time counts: a clock that once ran ahead
        must not keep the floor up there.)"""
        read = self._read()
        self._seen = max(self._seen, read) if self._seen - read <= BEHIND_US_MAX else read
        return max(self._seen, self._highest)
