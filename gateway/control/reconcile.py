"""One entry of the desired state against its row: created, changed, ended, or left as it is; and what was wrong."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.control.audit import Action, changed
from gateway.control.plan import Change, Effect
from gateway.control.refusals import Problem
from gateway.control.roles import Permission, allows
from gateway.control.store import Row
from gateway.control.tables import Table
from gateway.control.work import Work, key_of, outside
from gateway.faults import Fault
from gateway.licensing.findings import Finding

_SERVER_ERROR = 500


@dataclass(frozen=True, slots=True)
class End:
    """How a table's rows end: the column that says when, and whether a file may lift it."""

    column: str
    effect: Effect
    action: Action
    lifted: bool = False


REVOCATION = End("revoked_at", "revoke", Action.REVOKE)
WITHDRAWAL = End("withdrawn_at", "revoke", Action.REVOKE)
RETIREMENT = End("retired_at", "retire", Action.RETIRE, lifted=True)


def _nothing() -> dict[str, Any]:
    return {}


class Reconciliation:
    """Collects what is done and what is wrong, and which rows the desired state names."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.changes: list[Change] = []
        self.problems: list[Problem] = []
        self._named: set[tuple[str, tuple[Any, ...]]] = set()

    async def attempt(self, path: str, step: Awaitable[None], *, enveloped: bool = True) -> bool:
        """Whether `step`, which brings about the entry at `path`, came to its end. What it refuses is collected; that
        the book does not answer is no one entry's problem, and raised. What is wrong in an envelope is told at it."""
        try:
            await step
        except Finding as finding:
            self.problems.append(Problem(f"{path}.{'envelope' if enveloped else finding.path}", finding))
            return False
        except Fault as fault:
            if fault.code.status >= _SERVER_ERROR:
                raise
            self.problems.append(Problem(f"{path}.{fault.param}" if fault.param else path, fault))
            return False
        return True

    def permit(self, path: str, permission: Permission) -> bool:
        """Whether the actor may change the part at `path`; that it may not is a problem."""
        role = self.work.actor.role
        if not allows(role, permission):
            self.problems.append(Problem(path, Fault("permission_denied", role=role, permission=permission)))
            return False
        return True

    async def entry(
        self,
        table: Table,
        row: Row | None,
        values: Mapping[str, Any],
        name: str,
        *,
        end: End = REVOCATION,
        ended: bool = False,
        made: Callable[[], Mapping[str, Any]] = _nothing,
    ) -> None:
        """Bring the row of `name` to `values`. `ended`: it is to be ended, and its values do not matter. `made` are the
        values that a new row has besides."""
        if row is None:
            if not ended:
                await self._write(self.work.create(table, {**values, **made()}))
                self._note("create", table, name, {}, _public(table, values))
            return
        self.name(table, row)
        at = row.get(end.column)
        if ended:
            await self._end(table, row, name, end)
        elif at is not None and not end.lifted:
            self.drift(table, name, f"ended in the book at {at}; nothing brings it back")
        else:
            lifting = {end.column: None} if at is not None else {}
            await self._change(table, row, {**values, **lifting}, name)

    async def _end(self, table: Table, row: Row, name: str, end: End) -> None:
        if row[end.column] is not None:
            self._note("unchanged", table, name)
            return
        await self._write(self.work.update(table, row, {end.column: self.work.now}, end.action))
        self._note(end.effect, table, name, {"state": "active"}, {"state": f"{end.effect}d"})

    async def _change(self, table: Table, row: Row, values: Mapping[str, Any], name: str) -> None:
        before, after = changed(row, outside(table, values))
        if after:
            await self._write(self.work.update(table, row, values))
        self._note("update" if after else "unchanged", table, name, before, after)

    async def _write(self, step: Awaitable[object]) -> None:
        # A savepoint: the schema's refusal of one entry must not end the search for further problems.
        async with self.work.connection.transaction():
            await step

    def name(self, table: Table, row: Row) -> None:
        """The desired state names this row."""
        self._named.add((table.name, key_of(table, row)))

    def names(self, table: Table, row: Row) -> bool:
        """Whether the desired state names this row."""
        return (table.name, key_of(table, row)) in self._named

    def drift(self, table: Table, name: str, note: str) -> None:
        """The book has moved on in a way that files do not undo."""
        self.changes.append(Change("drift", table.kind, name, note=note))

    def _note(
        self, effect: Effect, table: Table, name: str, before: Mapping[str, Any] = {}, after: Mapping[str, Any] = {}
    ) -> None:
        self.changes.append(Change(effect, table.kind, name, before, after))


def _public(table: Table, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a new row that say anything."""
    return {name: value for name, value in outside(table, values).items() if value not in (None, "", [], {})}
