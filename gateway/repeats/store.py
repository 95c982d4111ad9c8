"""Idempotency keys in PostgreSQL: claimed before dispatch, answered from, freed. The SQL of this room."""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import msgspec

from billing.group_commit import GroupCommit
from billing.link import Link
from billing.types import Outcome
from gateway.audit.record import AuditRecord
from gateway.clock import now_us

_LOG = logging.getLogger(__name__)

# How long a key means its request. `expires_at` decides, by the database's clock; the worker's deletion only tidies up.
KEPT = "24 hours"
# A heartbeat is written every second. What a premature verdict costs is one 503: see `bury`.
DEAD_AFTER_S = 6.0
# From its claim to its durable row a request waits for Valkey and one statement, each bounded by a few seconds.
ROWLESS_AFTER = "30 seconds"

_CLAIM = f"""
INSERT INTO idempotency_key AS k (tenant_id, key_hash, fingerprint, tenant_key, request_id, instance_id, key_id, model,
  action)
SELECT DISTINCT ON (g.tenant_id, g.key_hash) g.tenant_id, decode(g.key_hash, 'hex'), decode(g.fingerprint, 'hex'),
  g.tenant_key, g.request_id, g.instance_id, g.key_id, g.model, g.action
FROM json_to_recordset($1::json) AS g(tenant_id text, key_hash text, fingerprint text, tenant_key text, request_id uuid,
  instance_id text, key_id text, model text, action text)
ORDER BY g.tenant_id, g.key_hash
ON CONFLICT (tenant_id, key_hash) DO UPDATE SET fingerprint = excluded.fingerprint, tenant_key = excluded.tenant_key,
  request_id = excluded.request_id, instance_id = excluded.instance_id, key_id = excluded.key_id,
  model = excluded.model, action = excluded.action, answer = NULL, claimed_at = now(),
  expires_at = now() + interval '{KEPT}'
WHERE k.expires_at <= now()
RETURNING request_id::text
"""  # noqa: S608 # a constant of our own

_FIND = f"""
SELECT k.fingerprint, k.tenant_key, k.request_id::text, k.instance_id, k.key_id, k.model, k.action, k.answer, j.state,
  coalesce(i.heartbeat_at = '-infinity', false) AS retired,
  coalesce(i.heartbeat_at < now() - interval '{DEAD_AFTER_S} seconds', true) AS silent,
  k.claimed_at < now() - interval '{ROWLESS_AFTER}' AS old
FROM idempotency_key k
LEFT JOIN journal j ON j.request_id = k.request_id AND j.tenant_id = k.tenant_id
LEFT JOIN instance i ON i.instance_id = k.instance_id
WHERE k.tenant_id = $1 AND k.key_hash = $2 AND k.expires_at > now()
"""  # noqa: S608 # constants of our own

# The key is free again: its request was delivered to nobody.
_FREE = "DELETE FROM idempotency_key WHERE tenant_id = $1 AND key_hash = $2 AND request_id = $3::text::uuid"

# The request has no row, and its process is dead or late. A final row in its name goes first: should it still come, its
# own `open` row finds the place taken and its first byte is refused (`Delivery._mark`), so it can never be charged.
_BURY = """
WITH buried AS (
  INSERT INTO journal (request_id, tenant_id, key_id, model, action, outcome, code, http_status, epoch, instance_id,
    state, opened_at, settled_at, booked_at)
  VALUES ($3::text::uuid, $1, $4, $5, $6, 'internal', 'internal', 500, 0, $7, 'voided', now(), now(), now())
  ON CONFLICT (request_id) DO NOTHING RETURNING request_id
), told AS (
  INSERT INTO audit_pending (tenant_id, request_id, record) SELECT $1, request_id, $8 FROM buried
)
DELETE FROM idempotency_key USING buried
WHERE tenant_id = $1 AND key_hash = $2 AND idempotency_key.request_id = buried.request_id
"""

_KEEP = """
UPDATE idempotency_key SET answer = $4
WHERE tenant_id = $1 AND key_hash = $2 AND request_id = $3::text::uuid RETURNING request_id
"""

_EXPIRE = """
DELETE FROM idempotency_key WHERE (tenant_id, key_hash) IN (
  SELECT tenant_id, key_hash FROM idempotency_key WHERE expires_at <= now() ORDER BY expires_at LIMIT $1
  FOR UPDATE SKIP LOCKED)
RETURNING 1
"""
EXPIRE_ROWS_MAX = 1_000

State = Literal["open", "dispatched", "streaming", "settled", "recovered", "voided"]


@dataclass(frozen=True, slots=True)
class KeyClaim:
    """One request's claim of one key of its tenant. `tenant_key` is the encryption key of fingerprint and answer."""

    tenant_id: str
    key_hash: bytes
    fingerprint: bytes
    tenant_key: str
    request_id: str
    instance_id: str
    key_id: str
    model: str
    action: str


@dataclass(frozen=True, slots=True)
class Found:
    """What stands under a key. `state` is that of the request's journal row, None while there is none; `dead`: its
    process no longer says that it lives, though it could; `old`: a living process would have written the row by now."""

    fingerprint: bytes
    tenant_key: str
    request_id: str
    instance_id: str
    key_id: str
    model: str
    action: str
    answer: bytes | None
    state: State | None
    dead: bool
    old: bool

    @property
    def delivered(self) -> bool:
        """Whether the client may have got a byte, and nothing more is to come: the charge stands, or will."""
        if self.state == "streaming":  # its answer is kept before its end is sent
            return self.answer is not None or self.dead
        return self.state in ("settled", "recovered")


class KeyStore:
    """The keys of all tenants, as one process writes and reads them. Every method raises `StoreUnavailable` or
    `asyncpg.PostgresError`. No connection is opened before the first request with a key.

    `steady_s` tells for how many seconds the database has taken this process's heartbeats without a gap: after an
    outage the heartbeats of all are old, and silence means nothing until all have had the time to break it."""

    def __init__(self, dsn: str, steady_s: Callable[[], float]) -> None:
        self._claim_link = Link(dsn)
        self._link = Link(dsn)
        self._steady_s = steady_s
        self._claims: GroupCommit[KeyClaim] = GroupCommit(self._store_claims)

    async def claim(self, claim: KeyClaim) -> bool:
        """Durably: this key means this request. False when it already means another one."""
        return await self._claims.put(claim)

    async def find(self, tenant_id: str, key_hash: bytes) -> Found | None:
        """What stands under the key; None when it is free."""
        rows = await self._link.fetch(_FIND, tenant_id, key_hash)
        if not rows:
            return None
        row = dict(rows[0])
        retired, silent = row.pop("retired"), row.pop("silent")
        # Asked after the answer came, so that an outage in which this question waited counts as well.
        return Found(**row, dead=retired or (silent and self._steady_s() > DEAD_AFTER_S))

    async def keep(self, claim: KeyClaim, answer: bytes) -> bool:
        """Durably: the sealed answer of the claim's request. False when the key no longer means it."""
        return bool(await self._link.fetch(_KEEP, claim.tenant_id, claim.key_hash, claim.request_id, answer))

    async def free(self, tenant_id: str, key_hash: bytes, request_id: str) -> None:
        """The key means nothing any more, if it still means `request_id`."""
        await self._link.fetch(_FREE, tenant_id, key_hash, request_id)

    async def bury(self, tenant_id: str, key_hash: bytes, found: Found) -> None:
        """Free the key of a request that never got a row, in such a way that it never will."""
        await self._link.fetch(
            _BURY, tenant_id, key_hash, found.request_id, found.key_id, found.model, found.action, found.instance_id,
            _audit_record(tenant_id, found),
        )  # fmt: skip
        _LOG.info("request %s never got a row and gives its idempotency key back", found.request_id)

    async def close(self) -> None:
        """Store what is queued, then close the connections."""
        await self._claims.close()
        await self._claim_link.close()
        await self._link.close()

    async def _store_claims(self, claims: Sequence[KeyClaim]) -> Collection[int]:
        rows = await self._claim_link.fetch(_CLAIM, msgspec.json.encode([_row(claim) for claim in claims]).decode())
        claimed = {row["request_id"] for row in rows}
        return {n for n, claim in enumerate(claims) if claim.request_id not in claimed}


async def expire(connection: Any) -> int:
    """Delete keys that mean nothing any more, a bounded number at once; returns how many."""
    return len(await connection.fetch(_EXPIRE, EXPIRE_ROWS_MAX))


def _row(claim: KeyClaim) -> dict[str, str]:
    row = asdict(claim)
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in row.items()}


def _audit_record(tenant_id: str, found: Found) -> str:
    return AuditRecord(
        request=found.request_id, tenant=tenant_id, key=found.key_id, model=found.model, action=found.action,
        outcome=Outcome.INTERNAL, code="internal", http=500, rule="", licence="", epoch=0, micro_yen=0, source="none",
        at=now_us(), verb="request:recover", prompt=0, cached=0, completion=0, reasoning=0,
    ).canonical()  # fmt: skip
