"""The bound of `fair_queue`, checked step by step from what was granted and corrected, not by the queue's counters.

Pure. It serves tests and the simulator; a dispatcher may run it beside its queue.
"""

from dataclasses import dataclass

from gateway.priority.types import WHOLE, Taken


@dataclass(slots=True)
class _Flight:
    of_open: bool | None  # None: internal, which is in no share
    charge: int
    most: int


class BoundBroken(AssertionError):
    """A group was served less than the bound promises: the queue is wrong."""


class FloorBound:
    """Watches one queue from its beginning, in every stretch in which both groups were backlogged.

    `in_flight_max` is U, `single_max` the largest single charge, in units. `shortfall_max` is the most that either
    group was short of its share in any stretch (φ·S − W_open for `open`), in 1/10 000 unit.
    """

    def __init__(self, floor: int) -> None:
        self._floor = floor
        self._flights: dict[str, _Flight] = {}
        self._in_flight = 0
        self._short = self._least = self._most = 0  # φ·S − W_open in the stretch, in 1/10 000 unit
        self.in_flight_max = 0
        self.single_max = 0
        self.shortfall_max = 0

    @property
    def allowed(self) -> int:
        """2·max(φ, 1−φ)·U, in 1/10 000 unit."""
        return 2 * max(self._floor, WHOLE - self._floor) * self.in_flight_max

    def taken(self, taken: Taken, most: int) -> None:
        """An ask has its slot; `most` is the largest charge it will ever have (its truth, if that is known and larger
        than the estimate). Raises `BoundBroken`, as the other steps do."""
        ask = taken.ask
        of_open = None if ask.group == "internal" else ask.group == "open"
        if of_open is not None and not taken.contended:
            self._restart()
        most = max(most, ask.charge)
        self._flights[ask.request_id] = _Flight(of_open, ask.charge, most)
        self._in_flight += most
        self.in_flight_max = max(self.in_flight_max, self._in_flight)
        self.single_max = max(self.single_max, most)
        self._serve(of_open, ask.charge)
        if of_open is not None and not taken.contended:
            self._restart()

    def corrected(self, request_id: str, charge: int) -> None:
        """What an ask in flight is charged now."""
        flight = self._flights[request_id]
        if charge > flight.most:
            raise ValueError(f"{request_id}: charged {charge}, said to be {flight.most} at most")
        before, flight.charge = flight.charge, charge
        self._serve(flight.of_open, charge - before)

    def completed(self, request_id: str, charge: int) -> None:
        """The end of an ask, at its true charge."""
        self.corrected(request_id, charge)
        self._in_flight -= self._flights.pop(request_id).most

    def _restart(self) -> None:
        """Begin a stretch: a group had nothing that the slot could serve."""
        self._short = self._least = self._most = 0

    def _serve(self, of_open: bool | None, units: int) -> None:
        if of_open is None:
            return
        self._short += (self._floor - WHOLE if of_open else self._floor) * units
        self._least = min(self._least, self._short)
        self._most = max(self._most, self._short)
        shortfall = max(self._short - self._least, self._most - self._short)
        if shortfall > self.shortfall_max:
            self.shortfall_max = shortfall
            if shortfall > self.allowed:
                raise BoundBroken(f"short by {shortfall} / {WHOLE} units, the bound allows {self.allowed}")
