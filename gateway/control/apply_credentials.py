"""Keys, clients and issuers of a desired state: which row an entry means, and what a new one gets besides."""

from collections.abc import Callable, Mapping
from typing import Any

from gateway.control.book_store import Book
from gateway.control.credentials import new_id, revives
from gateway.control.desired import DesiredClient, DesiredIssuer, DesiredKey, DesiredTenant
from gateway.control.reconcile import Reconciliation
from gateway.control.refusals import not_found
from gateway.control.store import Row
from gateway.control.tables import CLIENT, ISSUER, KEY, Table
from gateway.control.work import Work
from gateway.faults import Fault

_ENVIRONMENT = "live"


class CredentialEntries:
    """The credentials of the tenants of one application; `issued` are the new keys, with their texts under `key`."""

    def __init__(self, reconciliation: Reconciliation, book: Book) -> None:
        self.issued: list[Row] = []
        self._reconciliation = reconciliation
        self._book = book

    async def run(self, path: str, tenant: DesiredTenant) -> None:
        """Bring a tenant's credentials to what it desires."""
        for number, key in enumerate(tenant.keys):
            await self._reconciliation.attempt(f"{path}.keys[{number}]", self._key(tenant.tenant_id, key))
        for number, client in enumerate(tenant.clients):
            await self._reconciliation.attempt(f"{path}.clients[{number}]", self._client(tenant.tenant_id, client))
        for number, issuer in enumerate(tenant.issuers):
            await self._reconciliation.attempt(f"{path}.issuers[{number}]", self._issuer(tenant.tenant_id, issuer))

    async def _key(self, tenant_id: str, key: DesiredKey) -> None:
        row = self._meant(KEY, tenant_id, key.key_id, key.label)
        work = self._reconciliation.work
        replaced = row is not None and row["revoked_at"] is None and row["key_id"] in self._book.replaced
        if row is not None and replaced and key.state == "active" and revives(work, row, key.expires_at):
            self._reconciliation.name(KEY, row)
            self._reconciliation.drift(KEY, credential_name(KEY, row), "another key has taken its place")
            return
        await self._entry(KEY, row, tenant_id, key, lambda: self._issued(tenant_id, key))

    async def _client(self, tenant_id: str, client: DesiredClient) -> None:
        row = self._meant(CLIENT, tenant_id, client.client_id, client.label)
        await self._entry(CLIENT, row, tenant_id, client, lambda: {"client_id": new_id("oc")})

    async def _issuer(self, tenant_id: str, issuer: DesiredIssuer) -> None:
        found = [row for row in self._book.of(ISSUER, tenant_id) if row["issuer"] == issuer.issuer]
        row = found[0] if found else None
        await self._entry(ISSUER, row, tenant_id, issuer, lambda: {"issuer_id": new_id("oi")})

    async def _entry(
        self,
        table: Table,
        row: Row | None,
        tenant_id: str,
        entry: DesiredKey | DesiredClient | DesiredIssuer,
        made: Callable[[], Mapping[str, Any]],
    ) -> None:
        values = {"tenant_id": tenant_id, **entry.model_dump(exclude={"state", "key_id", "client_id"})}
        name = credential_name(table, values if row is None else row)
        await self._reconciliation.entry(table, row, values, name, ended=entry.state == "revoked", made=made)

    def _issued(self, tenant_id: str, key: DesiredKey) -> Mapping[str, Any]:
        new = self._reconciliation.work.new_key(_ENVIRONMENT)
        self.issued.append({"tenant_id": tenant_id, "label": key.label, "key_id": new.key_id, "key": new.text})
        return {"key_id": new.key_id, "mac": new.mac, "pepper_id": new.pepper_id}

    def _meant(self, table: Table, tenant_id: str, credential_id: str | None, label: str) -> Row | None:
        """The row that an entry means: that of its id, else the one in force with its label, else the last that was.

        Raises `Fault` where the id is unknown or several in force have the label.
        """
        if credential_id is not None:
            row = self._book.find(table, credential_id)
            if row is None or row["tenant_id"] != tenant_id:
                raise not_found(table.kind, credential_id, table.key[0])
            return row
        found = [row for row in self._book.of(table, tenant_id) if row["label"] == label]
        current = [row for row in found if not superseded(self._reconciliation.work, self._book, row)]
        in_force = [row for row in current if row["revoked_at"] is None]
        if len(in_force) > 1:
            raise Fault("wrong_state", param="label", kind=table.kind, name=label, detail="several have this label")
        return max(in_force or current or found, key=lambda row: str(row["created_at"]), default=None)


def credential_name(table: Table, row: Mapping[str, Any]) -> str:
    """What a plan calls a credential: an issuer by its URL, others by tenant and label, or the id where there is no
    label."""
    own = row["issuer"] if table is ISSUER else row["label"] or row.get(table.key[0], "")
    return f"{row['tenant_id']}/{own}"


def superseded(work: Work, book: Book, row: Row) -> bool:
    """Whether a key's place was taken by its successor, or a credential has expired."""
    expires_at = row.get("expires_at")
    if expires_at is not None and work.time_of(expires_at) <= work.now:
        return True
    return "replaces" in row and row["key_id"] in book.replaced
