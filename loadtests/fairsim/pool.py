"""The model of a pool: upstreams with slots; the fuller its batch, the slower an upstream writes each answer."""

EVERYWHERE = ("heavy-a", "heavy-b")
SLOTS_EACH = 32
SLOTS = SLOTS_EACH * len(EVERYWHERE)
PREFILL_PER_S = 4_000
# One answer alone is written at 50 tokens a second, one of 32 at 33: decoding is bound by memory.
DECODE_PER_S = 50
DECODE_HALVES_AT = 64


def prefill_us(prompt: int) -> int:
    """Time until an engine has counted and read a prompt."""
    return prompt * 1_000_000 // PREFILL_PER_S


def service_us(prompt: int, output: int, batch: int) -> int:
    """Time in a slot of an upstream that answers `batch` requests, this one among them, when it begins."""
    return prefill_us(prompt) + output * 1_000_000 * (DECODE_HALVES_AT + batch) // (DECODE_PER_S * DECODE_HALVES_AT)


class Pool:
    """The slots that are free."""

    def __init__(self) -> None:
        self._free = dict.fromkeys(EVERYWHERE, SLOTS_EACH)

    def free(self) -> tuple[str, ...]:
        """Upstreams that have a free slot, the emptiest first."""
        names = [name for name, number in self._free.items() if number]
        return tuple(sorted(names, key=lambda name: -self._free[name]))

    def begin(self, upstream: str) -> int:
        """Fill a slot; how many are full then."""
        assert self._free[upstream] > 0, f"{upstream} has no free slot"
        self._free[upstream] -= 1
        return SLOTS_EACH - self._free[upstream]

    def end(self, upstream: str) -> None:
        """Give a slot back."""
        self._free[upstream] += 1

    def free_for(self, upstreams: tuple[str, ...]) -> int:
        """How many free slots could serve an ask."""
        return sum(self._free[name] for name in upstreams)

    @property
    def busy(self) -> int:
        """How many slots are full."""
        return SLOTS - sum(self._free.values())
