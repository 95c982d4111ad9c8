"""Which processes live, by their heartbeats as this worker itself has read them."""

from dataclasses import dataclass, field

DEAD_AFTER_S = 5.0
READING_GAP_S_MAX = 2.0


@dataclass
class Liveness:
    """Which processes live. One counts as dead when this worker itself has read the same heartbeat for 5 s without a
    gap in its own readings (a database that was away must not make everybody look dead), or when it retired."""

    seen: dict[str, tuple[str, float]] = field(default_factory=dict)
    dead_since: dict[str, float] = field(default_factory=dict)
    read_at: float = float("-inf")

    def observe(self, heartbeats: dict[str, str], now: float) -> None:
        """Take one reading of all heartbeats at the monotonic time `now` (seconds)."""
        gap = now - self.read_at > READING_GAP_S_MAX
        # A gap proves nothing about the living; who was found dead and still says the same stays dead.
        known = {name: seen for name, seen in self.seen.items() if not gap or name in self.dead_since}
        self.read_at = now
        self.seen = {
            instance_id: known[instance_id] if instance_id in known and known[instance_id][0] == beat else (beat, now)
            for instance_id, beat in heartbeats.items()
        }

    def alive(self, instance_id: str, now: float) -> bool:
        """Whether the process may still finish its work."""
        beat, since = self.seen.get(instance_id, ("-infinity", now))
        alive = beat != "-infinity" and now - since < DEAD_AFTER_S
        if alive:
            self.dead_since.pop(instance_id, None)
        else:
            self.dead_since.setdefault(instance_id, now)
        return alive

    def dead_for(self, instance_id: str, now: float) -> float:
        """Seconds since the process was first found dead."""
        return now - self.dead_since.get(instance_id, now)
