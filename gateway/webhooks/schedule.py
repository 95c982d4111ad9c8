"""When a delivery that failed is tried again. Pure."""

FIRST_S = 5.0
FACTOR = 4
LATEST_S = 8 * 3600.0
ATTEMPTS_MAX = 16
"""With these delays, 16 attempts take three days."""
JITTER = 0.2


def delay_s(attempts: int, chance: float) -> float | None:
    """Seconds until the next attempt after `attempts` failed ones; None when there is none any more. `chance` in [0, 1)
    moves it by a fifth at most, so that what failed together does not come back together."""
    if attempts >= ATTEMPTS_MAX:
        return None
    delay: float = min(FIRST_S * FACTOR ** (attempts - 1), LATEST_S)
    return delay * (1 - JITTER + 2 * JITTER * chance)
