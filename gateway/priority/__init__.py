"""Who has priority and why, and the queue that keeps the floor for everybody else (docs/priority.md)."""
