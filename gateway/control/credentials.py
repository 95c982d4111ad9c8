"""What keys, clients and issuers have in common: they are in force or not, and a revocation is for good."""

import secrets
import string
from datetime import datetime
from typing import Literal

from gateway.control.audit import Action
from gateway.control.store import Row
from gateway.control.tables import Table
from gateway.control.work import Work
from gateway.faults import Fault

_ALPHABET = string.digits + string.ascii_letters
_ID_CHARS = 12


def new_id(prefix: Literal["oc", "oi", "we", "lr"]) -> str:
    """A fresh id of a client, an issuer, a webhook or a raise."""
    return f"{prefix}_{''.join(secrets.choice(_ALPHABET) for _ in range(_ID_CHARS))}"


async def revoke(work: Work, table: Table, credential_id: str) -> Row:
    """The row, revoked now if it was not yet."""
    row = await work.get(table, credential_id)
    return row if row["revoked_at"] is not None else await work.update(
        table, row, {"revoked_at": work.now}, Action.REVOKE
    )  # fmt: skip


def revives(work: Work, row: Row, end: datetime | None) -> bool:
    """Whether `end` as `expires_at` would let a key live longer than its row says."""
    ends_now = row["expires_at"]
    return ends_now is not None and (end is None or end > work.time_of(ends_now))


def require_in_force(work: Work, table: Table, row: Row) -> None:
    """Raises `Fault("wrong_state")` for what is revoked or expired."""
    state = "revoked" if row["revoked_at"] is not None else ""
    if row["expires_at"] is not None and work.time_of(row["expires_at"]) <= work.now:
        state = state or "expired"
    if state:
        raise Fault("wrong_state", kind=table.kind, name=table.object_id(row), detail=state)
