"""The record of one act of an administrator: who did what to which object, and what it was before and after.

Records are RFC 8785 JSON of at most 64 KiB. Secrets and MACs are never in them; envelopes and key sets are there as
their SHA-256.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import rfc8785

from gateway.control.tables import Table

RECORD_BYTES_MAX = 64 * 1024
VALUE_BYTES_MAX = 8 * 1024


class Source(StrEnum):
    """By which way the act came: a request for one object, an applied plan, or somebody with the data folder."""

    API = "api"
    APPLY = "apply"
    LOCAL = "local"


class Action(StrEnum):
    """What was done."""

    CREATE = "create"
    UPDATE = "update"
    ROTATE = "rotate"
    REVOKE = "revoke"
    RETIRE = "retire"
    CLOSE = "close"
    CREDIT = "credit"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who did it; `key_id` is '' for somebody with the data folder."""

    key_id: str
    role: str


@dataclass(frozen=True, slots=True)
class Act:
    """One change. `before` and `after` hold the changed fields only, as the outside sees them; `at` in microseconds
    since the epoch, `request` the id of the request ('' for none)."""

    source: Source
    action: Action
    table: Table
    object_id: str
    tenant_id: str
    actor: Actor
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    at: int
    request: str

    @property
    def verb(self) -> str:
        """`source:subject:action`."""
        return f"{self.source}:{self.table.kind}:{self.action}"

    def canonical(self) -> str:
        """The record's bytes as text. Raises `ValueError` when it is longer than 64 KiB."""
        record: Any = {
            "v": 1,
            "verb": self.verb,
            "actor": {"key_id": self.actor.key_id, "role": self.actor.role},
            "object": self.object_id,
            "tenant": self.tenant_id,
            "before": _disclosed(self.table, self.before),
            "after": _disclosed(self.table, self.after),
            "at": self.at,
            "request": self.request,
        }
        encoded = rfc8785.dumps(record)
        if len(encoded) > RECORD_BYTES_MAX:
            raise ValueError(f"the record of {self.verb} is longer than {RECORD_BYTES_MAX} bytes")
        return encoded.decode("utf-8")


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields that differ, as they were and as they are. A field that was not there before is only in the latter."""
    names = [name for name in after if name not in before or before[name] != after[name]]
    return {name: before[name] for name in names if name in before}, {name: after[name] for name in names}


def digest_of(value: Any) -> str:
    """SHA-256 of a text, or of a JSON value's canonical form, in hex."""
    encoded = value.encode("utf-8") if isinstance(value, str) else rfc8785.dumps(value)
    return hashlib.sha256(encoded).hexdigest()


def _disclosed(table: Table, values: Mapping[str, Any]) -> dict[str, Any]:
    """Without secrets; what is long or confidential as its digest."""
    assert not table.secret & values.keys()
    return {
        name: {"sha256": digest_of(value)} if value is not None and _hidden(table, name, value) else value
        for name, value in values.items()
    }


def _hidden(table: Table, name: str, value: Any) -> bool:
    return name in table.digested or len(json.dumps(value)) > VALUE_BYTES_MAX
