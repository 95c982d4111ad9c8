"""Repeats under one idempotency key."""
