"""The book as a desired state. What is ended is left out, and so is every secret: keys are there by label or id."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from pydantic.fields import FieldInfo

from gateway.control.apply_credentials import superseded
from gateway.control.billing_forms import NewAgreement, NewRateCard
from gateway.control.book_store import Book
from gateway.control.desired import (
    DesiredClient,
    DesiredContribution,
    DesiredIssuer,
    DesiredKey,
    DesiredTrustKey,
    DesiredUpstream,
)
from gateway.control.forms import Form, NewProject, NewTenant
from gateway.control.priority_forms import NewModel
from gateway.control.roles import Permission, allows
from gateway.control.store import Row
from gateway.control.tables import (
    AGREEMENT,
    CLIENT,
    CONTRIBUTION,
    ISSUER,
    KEY,
    MODEL,
    PROJECT,
    RATE_CARD,
    TENANT,
    TRUST_KEY,
    UPSTREAM,
    Table,
)
from gateway.control.work import Work

# The columns that say when a row has ended.
ENDS = ("revoked_at", "retired_at", "withdrawn_at")


def exported(work: Work, book: Book) -> dict[str, Any]:
    """A desired state that a plan of the same actor finds unchanged; the parts it may not change are absent."""
    state: dict[str, Any] = {
        "v": 1,
        "tenants": [_tenant(work, book, row) for row in book.all(TENANT)],
    }
    parts: tuple[tuple[str, Permission, Table, type[Form]], ...] = (
        ("trust_keys", Permission.TRUST_WRITE, TRUST_KEY, DesiredTrustKey),
        ("upstreams", Permission.UPSTREAM_WRITE, UPSTREAM, DesiredUpstream),
        ("rate_cards", Permission.RATE_CARD_WRITE, RATE_CARD, NewRateCard),
        ("contributions", Permission.LINEAGE_WRITE, CONTRIBUTION, DesiredContribution),
        ("models", Permission.LINEAGE_WRITE, MODEL, NewModel),
    )
    for name, permission, table, form in parts:
        if allows(work.actor.role, permission):
            state[name] = [_entry(form, row) for row in _in_force(book.all(table))]
    return state


def _tenant(work: Work, book: Book, row: Row) -> dict[str, Any]:
    tenant_id = row["tenant_id"]
    parts: dict[str, list[dict[str, Any]]] = {
        "projects": [_entry(NewProject, project) for project in book.of(PROJECT, tenant_id)],
        "keys": _credentials(work, book, KEY, tenant_id, DesiredKey),
        "clients": _credentials(work, book, CLIENT, tenant_id, DesiredClient),
        "issuers": [_entry(DesiredIssuer, issuer) for issuer in _in_force(book.of(ISSUER, tenant_id))],
        "licences": [
            {"envelope": licence["envelope"]}
            for licence in _in_force(book.licences.values())
            if licence["tenant_id"] == tenant_id and licence["envelope"] is not None
        ],
    }
    if allows(work.actor.role, Permission.AGREEMENT_WRITE):
        parts["agreements"] = [_entry(NewAgreement, agreement) for agreement in book.of(AGREEMENT, tenant_id)]
    return {**_entry(NewTenant, row), **{name: entries for name, entries in parts.items() if entries}}


def _credentials(work: Work, book: Book, table: Table, tenant_id: str, form: type[Form]) -> list[dict[str, Any]]:
    rows = [row for row in _in_force(book.of(table, tenant_id)) if not superseded(work, book, row)]
    labels = Counter(row["label"] for row in rows)
    return [
        _entry(form, row, without=table.key[0] if row["label"] and labels[row["label"]] == 1 else "") for row in rows
    ]


def _in_force(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if not any(row.get(column) for column in ENDS)]


def _entry(form: type[Form], row: Row, *, without: str = "") -> dict[str, Any]:
    """The fields of `form` that a row has, without those that have their default."""
    return {
        name: row[name]
        for name, field in form.model_fields.items()
        if name in row and name != without and (field.is_required() or row[name] != _default(field))
    }


def _default(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True, validated_data={})
