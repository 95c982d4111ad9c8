"""Requests that come again under one `Idempotency-Key`: one answer, one charge (docs/decisions/0015-idempotency.md)."""
