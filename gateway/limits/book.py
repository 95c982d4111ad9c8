"""Limits in PostgreSQL while Valkey is away: the same rule in functions of the book, many requests in one statement.

A tenant's row is the lock of all that is kept of it, taken in the order of tenants; so nothing is checked that another
request changes meanwhile, and no two batches wait for each other. Commits do not wait for the disk: a journal row that
is written later does, and PostgreSQL never loses the earlier of two commits only.
"""

import json
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from billing.group_commit import GroupCommit
from billing.link import Link
from gateway.limits.fills import Fills
from gateway.limits.reservation import Reservation
from gateway.limits.types import HeldEntry, Mode, Release, Unknown

_RESERVE = "SELECT limits_reserve_all($1, $2::jsonb)::text AS answers"
_OPEN = "SELECT limits_open($1, $2, $3) AS in_force"
_CHANGE = "SELECT limits_change_all($1, $2::jsonb)"
_LOOK = "SELECT limits_look($1, $2, $3, $4) AS figures"
_ENTRIES = """
SELECT h.request_id, h.tenant_id, h.period, h.instance_id, h.held_at, h.levels
FROM limit_hold h JOIN limit_book b ON b.tenant_id = h.tenant_id AND b.generation = $1
WHERE (h.tenant_id, h.request_id) > ($2, $3) ORDER BY h.tenant_id, h.request_id LIMIT 500
"""


@dataclass(slots=True)
class _Ask:
    generation: int
    asked: Reservation
    answer: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class _Change:
    generation: int
    release: Release
    final: bool


class BookLimits:
    """The limits of all tenants in the book. Methods raise `StoreUnavailable` or `PostgresError`, and `Unknown` when
    another generation is in force."""

    def __init__(self, dsn: str, fills: Fills) -> None:
        self._fills = fills
        self._known: set[tuple[int, str, str]] = set()
        self._reserve_link = Link(dsn, synchronous=False)
        self._change_link = Link(dsn, synchronous=False)
        self._asks: GroupCommit[_Ask] = GroupCommit(self._store_asks)
        self._changes: GroupCommit[_Change] = GroupCommit(self._store_changes)

    async def reserve(self, mode: Mode, asked: Reservation) -> Sequence[Any]:
        """The answer of `limits_reserve`."""
        await self._open(mode, asked.tenant_id, asked.period)
        ask = _Ask(mode.generation, asked)
        await self._asks.put(ask)
        if ask.answer[0] == "moved":
            raise Unknown
        return ask.answer

    async def change(self, mode: Mode, release: Release, how: str) -> None:
        """End a hold, or lower it (`how`: 'end' or 'shrink')."""
        await self._changes.put(_Change(mode.generation, release, how == "end"))

    async def look(self, mode: Mode, tenant_id: str, period: str, names: Sequence[str]) -> Sequence[int]:
        """The answer of `limits_look` for levels by name."""
        await self._open(mode, tenant_id, period)
        rows = await self._change_link.fetch(_LOOK, mode.generation, tenant_id, period, list(names))
        figures: Sequence[int] | None = rows[0]["figures"]
        if figures is None:
            raise Unknown
        return figures

    async def _open(self, mode: Mode, tenant_id: str, period: str) -> None:
        """Have the book know the month, so that no batch waits until it is read."""
        key = (mode.generation, tenant_id, period)
        if key not in self._known:
            await self._fills.once(key, lambda: self._open_once(*key))

    async def _open_once(self, generation: int, tenant_id: str, period: str) -> None:
        if not (await self._fills.fetch(_OPEN, generation, tenant_id, period))[0]["in_force"]:
            raise Unknown
        self._known = {known for known in self._known if known[0] == generation} | {(generation, tenant_id, period)}

    async def entries(self, mode: Mode) -> AsyncIterator[HeldEntry]:
        """Every hold there is, for the sweep."""
        after = ("", "")
        while True:
            rows = await self._change_link.fetch(_ENTRIES, mode.generation, *after)
            for row in rows:
                yield HeldEntry(**dict(row))
            if not rows:
                return
            after = (rows[-1]["tenant_id"], rows[-1]["request_id"])

    async def close(self) -> None:
        """Store what is queued, then close the connections."""
        await self._asks.close()
        await self._changes.close()
        await self._reserve_link.close()
        await self._change_link.close()

    async def _store_asks(self, asks: Sequence[_Ask]) -> Collection[int]:
        for generation in {ask.generation for ask in asks}:
            batch = [ask for ask in asks if ask.generation == generation]
            bodies = json.dumps([ask.asked.ask for ask in batch])
            rows = await self._reserve_link.fetch(_RESERVE, generation, bodies)
            answers = json.loads(rows[0]["answers"])
            for number, ask in enumerate(batch):
                ask.answer = answers[str(number)]
        return ()

    async def _store_changes(self, changes: Sequence[_Change]) -> Collection[int]:
        for generation in {change.generation for change in changes}:
            batch = [_body(change) for change in changes if change.generation == generation]
            await self._change_link.fetch(_CHANGE, generation, json.dumps(batch))
        return ()


def _body(change: _Change) -> dict[str, Any]:
    release = change.release
    return {"request_id": release.request_id, "tenant_id": release.tenant_id, "tokens": release.tokens,
            "micro_yen": release.micro_yen, "final": change.final}  # fmt: skip
