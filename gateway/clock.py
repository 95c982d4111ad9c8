"""Wall-clock time in the units of the book."""

import time


def now_us() -> int:
    """Microseconds since the Unix epoch (UTC)."""
    return time.time_ns() // 1_000
