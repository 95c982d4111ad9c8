"""Webhook events and their deliveries in PostgreSQL. The SQL of this room; endpoints are written by the admin plane."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from gateway.webhooks.events import Event

# A worker that dies in the middle leaves its delivery to whoever comes after this: at least once, never lost.
LEASE_S = 60
EACH_MAX = 2  # at once for one endpoint, so that a slow one keeps nobody else waiting
KEPT = "90 days"
PURGE_ROWS_MAX = 1_000

_PUBLISH = """
WITH event AS (
  INSERT INTO webhook_event (event_id, tenant_id, type, dedupe, body) VALUES ($1, $2, $3, $4, $5)
  ON CONFLICT (tenant_id, dedupe) DO NOTHING RETURNING event_id, tenant_id, type
), addressed AS (
  INSERT INTO webhook_delivery (event_id, endpoint_id, tenant_id)
  SELECT e.event_id, w.endpoint_id, e.tenant_id FROM event e JOIN webhook_endpoint w ON w.tenant_id = e.tenant_id
  WHERE w.deleted_at IS NULL AND w.disabled_at IS NULL AND (w.events IS NULL OR e.type = ANY (w.events))
)
SELECT event_id FROM event
"""

_DUE = """
WITH due AS (
  SELECT d.endpoint_id, d.event_id FROM webhook_endpoint w
  CROSS JOIN LATERAL (
    SELECT endpoint_id, event_id, next_at FROM webhook_delivery
    WHERE endpoint_id = w.endpoint_id AND status = 'pending' AND next_at <= now()
    ORDER BY next_at LIMIT $3 FOR UPDATE SKIP LOCKED
  ) d
  WHERE w.disabled_at IS NULL AND w.deleted_at IS NULL AND w.endpoint_id <> ALL ($2::text[])
  ORDER BY d.next_at LIMIT $1
)
UPDATE webhook_delivery d
SET attempts = d.attempts + 1, last_at = now(), next_at = now() + $4 * interval '1 second'
FROM due, webhook_endpoint w, webhook_event e
WHERE d.endpoint_id = due.endpoint_id AND d.event_id = due.event_id AND w.endpoint_id = d.endpoint_id
  AND e.event_id = d.event_id
RETURNING d.endpoint_id, d.event_id, d.tenant_id, d.attempts, w.url, e.body, w.secret,
  CASE WHEN w.old_secret_until > now() THEN w.old_secret END AS old_secret, now() AS now
"""

_RESULT = """
UPDATE webhook_delivery SET status = $3, next_at = now() + $4 * interval '1 second', last_status = $5, last_error = $6
WHERE endpoint_id = $1 AND event_id = $2 AND status = 'pending'
"""

# An endpoint that took anything since this event was made is alive, and only did not want this one.
_GIVE_UP = """
UPDATE webhook_endpoint w SET disabled_at = now(), disabled_reason = $3
FROM webhook_delivery d
WHERE w.endpoint_id = $1 AND w.disabled_at IS NULL AND d.endpoint_id = $1 AND d.event_id = $2
  AND ($4 OR NOT EXISTS (SELECT FROM webhook_delivery o
    WHERE o.endpoint_id = $1 AND o.status = 'delivered' AND o.last_at > d.created_at))
RETURNING w.endpoint_id
"""

_PURGE = f"""
WITH old AS (
  SELECT event_id FROM webhook_event WHERE created_at < now() - interval '{KEPT}' ORDER BY created_at LIMIT $1
), deliveries AS (
  DELETE FROM webhook_delivery USING old WHERE webhook_delivery.event_id = old.event_id
)
DELETE FROM webhook_event USING old WHERE webhook_event.event_id = old.event_id RETURNING 1
"""  # noqa: S608 # a constant of our own

_SHOW = """
SELECT d.event_id, e.type, d.status, d.attempts, d.created_at, d.last_at, d.last_status, d.last_error,
  CASE WHEN d.status = 'pending' THEN d.next_at END AS next_at
FROM webhook_delivery d JOIN webhook_event e USING (event_id)
WHERE d.endpoint_id = $1 AND ($2 = '' OR d.event_id < $2) ORDER BY d.event_id DESC LIMIT $3
"""

_ADDRESS = """
INSERT INTO webhook_delivery (event_id, endpoint_id, tenant_id)
SELECT e.event_id, w.endpoint_id, w.tenant_id FROM webhook_event e JOIN webhook_endpoint w USING (tenant_id)
WHERE e.event_id = $2 AND w.endpoint_id = $1
"""

Status = Literal["pending", "delivered", "failed"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to one endpoint: its `attempts`-th attempt begins at `now`. Secrets are sealed."""

    endpoint_id: str
    event_id: str
    tenant_id: str
    attempts: int
    url: str
    body: str
    secret: bytes
    old_secret: bytes | None
    now: datetime


@dataclass(frozen=True, slots=True)
class Result:
    """What became of an attempt. `next_s`: seconds until the next one; `http_status` as the receiver answered, None
    when it did not; `error` a word, '' for none."""

    status: Status
    next_s: float
    http_status: int | None
    error: str


async def publish(connection: Any, event: Event) -> bool:
    """The event, addressed to every endpoint that wants it; in the transaction of what happened. False when it has
    happened before."""
    return bool(await connection.fetch(_PUBLISH, event.event_id, event.tenant_id, event.type, event.dedupe, event.body))


async def due(connection: Any, limit: int, busy: list[str]) -> list[Delivery]:
    """At most `limit` deliveries whose time has come, none of the endpoints `busy`; leased to the caller."""
    rows = await connection.fetch(_DUE, limit, busy, EACH_MAX, LEASE_S)
    return [Delivery(**dict(row)) for row in rows]


async def record(connection: Any, delivery: Delivery, result: Result) -> None:
    """Write down what became of an attempt."""
    await connection.fetch(
        _RESULT, delivery.endpoint_id, delivery.event_id, result.status, result.next_s, result.http_status, result.error
    )


async def disable(connection: Any, delivery: Delivery, reason: str, *, at_once: bool) -> bool:
    """Disable the delivery's endpoint, unless it has taken something else meanwhile; `at_once`: even then."""
    return bool(await connection.fetch(_GIVE_UP, delivery.endpoint_id, delivery.event_id, reason, at_once))


async def purge(connection: Any) -> int:
    """Delete events of more than 90 days ago with their deliveries, a bounded number at once; returns how many."""
    return len(await connection.fetch(_PURGE, PURGE_ROWS_MAX))


async def deliveries(connection: Any, endpoint_id: str, before: str, limit: int) -> list[dict[str, Any]]:
    """The newest deliveries of an endpoint, before the event `before` ('' from the newest)."""
    return [dict(row) for row in await connection.fetch(_SHOW, endpoint_id, before, limit)]


async def address(connection: Any, endpoint_id: str, event_id: str) -> None:
    """Deliver an event to this endpoint of its tenant."""
    await connection.fetch(_ADDRESS, endpoint_id, event_id)


async def secret_of(connection: Any, endpoint_id: str) -> bytes:
    """The endpoint's newest secret, sealed."""
    rows = await connection.fetch("SELECT secret FROM webhook_endpoint WHERE endpoint_id = $1", endpoint_id)
    secret: bytes = rows[0]["secret"]
    return secret
