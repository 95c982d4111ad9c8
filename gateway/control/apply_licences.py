"""Licences of a desired state: admitted like any other, those that others are cut from first."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gateway.control.audit import digest_of
from gateway.control.book_store import Book
from gateway.control.desired import DesiredLicence, DesiredTenant
from gateway.control.licences import revoke, submit
from gateway.control.plan import Change
from gateway.control.reconcile import Reconciliation
from gateway.control.roles import Permission, allows
from gateway.control.tables import LICENCE
from gateway.faults import Fault
from gateway.licensing.document import LicenceDocument
from gateway.licensing.envelope import Sealed, open_envelope
from gateway.licensing.findings import Finding


@dataclass(frozen=True, slots=True)
class _Entry:
    path: str
    tenant_id: str
    desired: DesiredLicence
    sealed: Sealed

    @property
    def document(self) -> LicenceDocument:
        return self.sealed.document


class LicenceEntries:
    """The licences of one application."""

    def __init__(self, reconciliation: Reconciliation, book: Book) -> None:
        self._reconciliation = reconciliation
        self._book = book
        self._entries: list[_Entry] = []

    async def run(self, tenants: Sequence[tuple[str, DesiredTenant]]) -> None:
        """Bring the licences of `tenants`, each with its path, to what is desired."""
        for path, tenant in tenants:
            for number, desired in enumerate(tenant.licences):
                here = f"{path}.licences[{number}]"
                await self._reconciliation.attempt(here, self._read(here, tenant.tenant_id, desired))
        for entry in in_order(self._entries):
            await self._reconciliation.attempt(entry.path, self._licence(entry))

    async def _read(self, path: str, tenant_id: str, desired: DesiredLicence) -> None:
        sealed = open_envelope(desired.envelope)
        document = sealed.document
        if document.licensee.tenant != tenant_id:
            raise Finding("tenant_mismatch", "licensee.tenant", f"{document.licensee.tenant}, listed under {tenant_id}")
        if any(entry.document.licence_id == document.licence_id for entry in self._entries):
            raise Fault("already_exists", param="envelope", kind=LICENCE.kind, name=document.licence_id)
        self._entries.append(_Entry(path, tenant_id, desired, sealed))

    async def _licence(self, entry: _Entry) -> None:
        document, licence_id = entry.document, entry.document.licence_id
        row = self._book.licences.get(licence_id)
        if row is not None:
            self._reconciliation.name(LICENCE, row)
        if entry.desired.state == "revoked":
            await self._ended(entry)
        elif row is not None and row["revoked_at"] is not None:
            self._reconciliation.drift(LICENCE, licence_id, f"revoked in the book: {row['revoke_reason']}")
        elif row is not None and document.version < row["version"]:
            self._reconciliation.drift(LICENCE, licence_id, f"the book has version {row['version']}")
        elif row is not None and row["envelope"] is not None and digest_of(row["envelope"]) == entry.sealed.digest:
            self._note(Change("unchanged", LICENCE.kind, licence_id))
        else:
            self._require(Permission.LICENCE_SUBMIT)
            async with self._reconciliation.work.connection.transaction():
                await submit(self._reconciliation.work, entry.sealed.text)
            before = {} if row is None else {"version": row["version"]}
            after = {"version": document.version, "digest": entry.sealed.digest}
            self._note(Change("create" if row is None else "update", LICENCE.kind, licence_id, before, after))

    async def _ended(self, entry: _Entry) -> None:
        licence_id = entry.document.licence_id
        row = self._book.licences.get(licence_id)
        if row is None or row["revoked_at"] is not None:
            self._note(Change("unchanged", LICENCE.kind, licence_id))
            return
        self._require(Permission.LICENCE_REVOKE)
        await revoke(self._reconciliation.work, licence_id, entry.desired.reason)
        after = {"state": "revoked", "reason": entry.desired.reason}
        self._note(Change("revoke", LICENCE.kind, licence_id, {"state": "active"}, after))

    def _require(self, permission: Permission) -> None:
        role = self._reconciliation.work.actor.role
        if not allows(role, permission):
            raise Fault("permission_denied", role=role, permission=permission)

    def _note(self, change: Change) -> None:
        self._reconciliation.changes.append(change)


def in_order(entries: Iterable[_Entry]) -> list[_Entry]:
    """Each licence after the one that it is cut from."""
    by_id = {entry.document.licence_id: entry for entry in entries}
    return sorted(by_id.values(), key=lambda entry: (_depth(entry, by_id), entry.document.licence_id))


def _depth(entry: _Entry, by_id: Mapping[str, _Entry]) -> int:
    depth, seen = 0, {entry.document.licence_id}
    parent = entry.document.parent
    while parent is not None and parent.licence_id in by_id and parent.licence_id not in seen:
        seen.add(parent.licence_id)
        depth += 1
        parent = by_id[parent.licence_id].document.parent
    return depth
