"""Priority that follows from intellectual property, and the floor for everyone (docs/priority.md)."""
