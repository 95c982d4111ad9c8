"""Which processes live, by their heartbeats as this worker itself has read them."""

from dataclasses import dataclass, field

DEAD_AFTER_S = 5.0
READING_GAP_S_MAX = 2.0


@dataclass
class Liveness:
    """Which processes live. One counts as dead when this worker itself has read the same heartbeat for 5 s without a
    gap in its own readings (a database that was away must not make everybody look dead), or when it retired."""

    seen: dict[str, tuple[str, float]] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)
    read_at: float = float("-inf")

    def observe(self, heartbeats: dict[str, str], now: float) -> None:
        """Take one reading of all heartbeats at the monotonic time `now` (seconds)."""
        still = {name for name, beat in heartbeats.items() if self.seen.get(name, ("", now))[0] == beat}
        # Who has said something since lives again, whether or not anybody asked about it meanwhile.
        self.dead &= still
        if now - self.read_at > READING_GAP_S_MAX:
            still &= self.dead  # a gap proves nothing about the living; who was found dead stays dead
        self.read_at = now
        self.seen = {name: self.seen[name] if name in still else (beat, now) for name, beat in heartbeats.items()}

    def alive(self, instance_id: str, now: float) -> bool:
        """Whether the process may still finish its work."""
        beat, since = self.seen.get(instance_id, ("-infinity", now))
        alive = beat != "-infinity" and now - since < DEAD_AFTER_S
        if not alive and instance_id in self.seen:
            self.dead.add(instance_id)
        return alive
