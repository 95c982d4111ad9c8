"""One request's work on the book: a transaction in which every change leaves its record.

Changes come one at a time over all processes of the admin plane: a lock at the start of each changing transaction. They
would meet at the epoch's row anyway, and so none can act on what another has just changed.
"""

from collections.abc import Awaitable, Mapping
from datetime import datetime
from typing import Any

import asyncpg

from gateway.control import audit_store, store
from gateway.control.audit import Act, Action, Actor, Source, changed
from gateway.control.forms import Form
from gateway.control.principal import AdminPrincipal
from gateway.control.refusals import first_problem, not_found, violation
from gateway.control.store import Row
from gateway.control.tables import Page, Table
from gateway.faults import Fault
from gateway.identity.keys import NewKey, Pepper, Prefix, new_key
from gateway.licensing.times import to_us
from gateway.tenancy.keystore import TenantKeys


class Work:
    """What one administrator does in one transaction. `now` is the time of it, never before the highest stored one."""

    def __init__(
        self,
        connection: Any,
        actor: AdminPrincipal,
        now: datetime,
        request_id: str,
        pepper: Pepper,
        tenant_keys: TenantKeys,
    ) -> None:
        self.connection = connection
        self.actor = actor
        self.now = now
        self.source = Source.API
        self.tenant_keys = tenant_keys
        self.request_id = request_id
        self._pepper = pepper

    def new_key(self, environment: str, prefix: Prefix = "sk") -> NewKey:
        """A key's text and what is stored of it."""
        return new_key(environment, self._pepper, prefix=prefix)

    @staticmethod
    def time_of(text: str) -> datetime:
        """The time that a row shows as `text`."""
        return datetime.fromisoformat(text)

    async def get(self, table: Table, *key: str) -> Row:
        """The row, or `Fault("object_not_found")` where there is none within reach."""
        row = await store.find(self.connection, table, key, self.actor.reach)
        if row is None:
            raise not_found(table.kind, "/".join(key))
        return row

    async def page(self, table: Table, wanted: Page) -> list[Row]:
        """Rows within reach."""
        return await store.page(self.connection, table, wanted, self.actor.reach)

    async def create(self, table: Table, values: Mapping[str, Any], action: Action = Action.CREATE) -> Row:
        """A new row and its record. Raises `Fault` where the schema refuses it or its tenant is out of reach."""
        if table.scoped and not self.actor.reach.covers(values["tenant_id"]):
            raise not_found("tenant", values["tenant_id"])
        try:
            row = await store.insert(self.connection, table, values)
        except asyncpg.PostgresError as error:
            raise violation(error, table.kind, _taken(table, values)) from error
        await self._record(table, action, row, {}, row)
        return row

    async def created(self, table: Table, step: Awaitable[object], *key: str) -> Row:
        """`create` where a store of another room writes: `step` does, and the row of `key` is there after it."""
        try:
            await step
        except asyncpg.PostgresError as error:
            raise violation(error, table.kind, "/".join(key)) from error
        return await self.note(table, *key, action=Action.CREATE)

    async def note(self, table: Table, *key: str, action: Action) -> Row:
        """Record that this work has made the row of `key`, which is there; returns it."""
        row = await self.get(table, *key)
        await self._record(table, action, row, {}, row)
        return row

    async def update(self, table: Table, row: Row, changes: Mapping[str, Any], action: Action = Action.UPDATE) -> Row:
        """The row after `changes` (RFC 7396 in effect: what is absent stays). Nothing is written, nor recorded, where
        nothing changes. Raises `Fault` for a field that never changes, and where the schema refuses it."""
        before, after = changed(row, outside(table, changes))
        if not after:
            return row
        for name in sorted(table.fixed & after.keys()):
            raise _fixed(table, name)
        try:
            new = await store.update(
                self.connection, table, key_of(table, row), {name: changes[name] for name in after}
            )
        except asyncpg.PostgresError as error:
            raise violation(error, table.kind, _taken(table, {**row, **changes})) from error
        await self._record(table, action, new, before, after)
        return new

    async def amend(self, table: Table, row: Row, form: type[Form], changes: Mapping[str, Any]) -> Row:
        """`update`, after the whole of the changed row was checked by `form`."""
        wanted = {**row, **outside(table, changes)}
        first_problem(form, {name: value for name, value in wanted.items() if name in form.model_fields})
        return await self.update(table, row, changes)

    async def _record(
        self, table: Table, action: Action, row: Row, before: Mapping[str, Any], after: Mapping[str, Any]
    ) -> None:
        before, after = ({n: v for n, v in side.items() if n not in table.secret} for side in (before, after))
        act = Act(
            source=self.source, action=action, table=table, object_id=table.object_id(row),
            tenant_id=str(row.get("tenant_id") or ""), actor=Actor(self.actor.key_id, self.actor.role), before=before,
            after=after, at=to_us(self.now), request=self.request_id,
        )  # fmt: skip
        await audit_store.record(self.connection, act)


def key_of(table: Table, row: Row) -> tuple[Any, ...]:
    """The primary key of a row."""
    return tuple(row[column] for column in table.key)


def outside(table: Table, values: Mapping[str, Any]) -> Row:
    """Values of the application as a row shows them."""
    return {name: store.outside(table.columns[name], value) for name, value in values.items()}


def _taken(table: Table, values: Mapping[str, Any]) -> str:
    """The name that another row may have already."""
    return str(values[table.unique]) if table.unique else table.object_id(values)


def _fixed(table: Table, name: str) -> Fault:
    return Fault("invalid_value", param=name, detail=f"never changes; add another {table.kind} instead")
