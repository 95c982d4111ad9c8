"""Brings the book to a desired state, in the transaction of one piece of work. All that is wrong is collected, and if
anything is, the caller undoes the whole. A plan is the same, undone in any case: so what it shows is what will happen.

Nothing is ended because a file does not mention it, and nothing that was revoked comes back.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.control.agreements import check_terms
from gateway.control.apply_credentials import CredentialEntries, credential_name, superseded
from gateway.control.apply_licences import LicenceEntries
from gateway.control.audit import Source
from gateway.control.billing_forms import NewAgreement, NewRateCard
from gateway.control.book_store import Book
from gateway.control.desired import Desired, DesiredContribution, DesiredTenant
from gateway.control.exported import ENDS
from gateway.control.lineages import check_contribution, check_model
from gateway.control.plan import Change
from gateway.control.priority_forms import NewModel
from gateway.control.rate_cards import check_end, check_new_card
from gateway.control.reconcile import RETIREMENT, WITHDRAWAL, Reconciliation
from gateway.control.refusals import Problem, not_found
from gateway.control.roles import Permission, allows
from gateway.control.store import Row
from gateway.control.tables import (
    AGREEMENT,
    CLIENT,
    CONTRIBUTION,
    ISSUER,
    KEY,
    LICENCE,
    MODEL,
    PROJECT,
    RATE_CARD,
    TENANT,
    TRUST_KEY,
    UPSTREAM,
    Table,
)
from gateway.control.trust import trust_values
from gateway.control.work import Work
from gateway.faults import Fault

_OWN = {"projects", "keys", "clients", "issuers", "licences", "agreements"}


@dataclass(frozen=True, slots=True)
class Applied:
    """What was done, what is wrong, and the new keys with their texts. With problems, part of it may have been written:
    undo the transaction."""

    changes: Sequence[Change]
    problems: Sequence[Problem]
    issued: Sequence[Row]


async def apply(work: Work, book: Book, desired: Desired) -> Applied:
    """Bring the book to `desired`."""
    work.source = Source.APPLY
    reconciliation = Reconciliation(work)
    credentials = CredentialEntries(reconciliation, book)
    await _trust_keys(reconciliation, book, desired)
    await _contributions(reconciliation, book, desired)
    await _models(reconciliation, book, desired)
    there = []
    for number, tenant in enumerate(desired.tenants or ()):
        path = f"tenants[{number}]"
        if await reconciliation.attempt(path, _tenant(reconciliation, book, tenant)):
            there.append((path, tenant))
            await _projects(reconciliation, book, path, tenant)
            await credentials.run(path, tenant)
            await _agreements(reconciliation, book, path, tenant)
    await LicenceEntries(reconciliation, book).run(there)
    await _upstreams(reconciliation, book, desired)
    await _rate_cards(reconciliation, book, desired)
    left = [Change("not_in_files", kind, name) for kind, name in _left(reconciliation, book, desired)]
    return Applied([*reconciliation.changes, *left], reconciliation.problems, credentials.issued)


async def _tenant(reconciliation: Reconciliation, book: Book, tenant: DesiredTenant) -> None:
    row = book.find(TENANT, tenant.tenant_id)
    actor = reconciliation.work.actor
    if row is None and not (actor.reach.covers(tenant.tenant_id) and allows(actor.role, Permission.TENANT_CREATE)):
        raise not_found(TENANT.kind, tenant.tenant_id, "tenant_id")
    if row is not None and row["sites"] != tenant.sites and not allows(actor.role, Permission.SITE_WRITE):
        raise Fault("permission_denied", param="sites", role=actor.role, permission=Permission.SITE_WRITE)
    await reconciliation.entry(TENANT, row, tenant.model_dump(exclude=_OWN), tenant.tenant_id)


async def _projects(reconciliation: Reconciliation, book: Book, path: str, tenant: DesiredTenant) -> None:
    for number, project in enumerate(tenant.projects):
        values = {"tenant_id": tenant.tenant_id, **project.model_dump()}
        row = book.find(PROJECT, tenant.tenant_id, project.project_id)
        step = reconciliation.entry(PROJECT, row, values, PROJECT.object_id(values))
        await reconciliation.attempt(f"{path}.projects[{number}]", step)


async def _agreements(reconciliation: Reconciliation, book: Book, path: str, tenant: DesiredTenant) -> None:
    if not tenant.agreements or not reconciliation.permit(f"{path}.agreements", Permission.AGREEMENT_WRITE):
        return
    for number, agreement in enumerate(tenant.agreements):
        step = _agreement(reconciliation, book, tenant.tenant_id, agreement)
        await reconciliation.attempt(f"{path}.agreements[{number}]", step)


async def _agreement(reconciliation: Reconciliation, book: Book, tenant_id: str, agreement: NewAgreement) -> None:
    row = book.find(AGREEMENT, agreement.agreement_id)
    check_terms(tenant_id, agreement)
    if row is not None:
        check_end(reconciliation.work, row, agreement.effective_to)
    values = {"tenant_id": tenant_id, **agreement.model_dump()}
    await reconciliation.entry(AGREEMENT, row, values, agreement.agreement_id)


async def _trust_keys(reconciliation: Reconciliation, book: Book, desired: Desired) -> None:
    if desired.trust_keys is None or not reconciliation.permit("trust_keys", Permission.TRUST_WRITE):
        return
    for number, key in enumerate(desired.trust_keys):
        values = trust_values(key)
        row = book.find(TRUST_KEY, values["key_id"])
        step = reconciliation.entry(TRUST_KEY, row, values, values["key_id"], ended=key.state == "revoked")
        await reconciliation.attempt(f"trust_keys[{number}]", step)


async def _contributions(reconciliation: Reconciliation, book: Book, desired: Desired) -> None:
    if desired.contributions is None or not reconciliation.permit("contributions", Permission.LINEAGE_WRITE):
        return
    for number, entry in enumerate(desired.contributions):
        step = _contribution(reconciliation, book, entry)
        await reconciliation.attempt(f"contributions[{number}]", step)


async def _contribution(reconciliation: Reconciliation, book: Book, entry: DesiredContribution) -> None:
    check_contribution(reconciliation.work, entry)
    await reconciliation.entry(
        CONTRIBUTION, book.find(CONTRIBUTION, entry.contribution_id), entry.model_dump(exclude={"state"}),
        entry.contribution_id, end=WITHDRAWAL, ended=entry.state == "withdrawn",
    )  # fmt: skip


async def _models(reconciliation: Reconciliation, book: Book, desired: Desired) -> None:
    if desired.models is None or not reconciliation.permit("models", Permission.LINEAGE_WRITE):
        return
    for number, model in enumerate(desired.models):
        await reconciliation.attempt(f"models[{number}]", _model(reconciliation, book, model), enveloped=False)


async def _model(reconciliation: Reconciliation, book: Book, model: NewModel) -> None:
    await check_model(reconciliation.work, model)
    values = model.model_dump()
    row = book.find(MODEL, model.model, model.model_version)
    await reconciliation.entry(MODEL, row, values, MODEL.object_id(values))


async def _upstreams(reconciliation: Reconciliation, book: Book, desired: Desired) -> None:
    if desired.upstreams is None or not reconciliation.permit("upstreams", Permission.UPSTREAM_WRITE):
        return
    for number, upstream in enumerate(desired.upstreams):
        row = book.find(UPSTREAM, upstream.upstream_id)
        step = reconciliation.entry(
            UPSTREAM, row, upstream.model_dump(exclude={"state"}), upstream.upstream_id, end=RETIREMENT,
            ended=upstream.state == "retired",
        )  # fmt: skip
        await reconciliation.attempt(f"upstreams[{number}]", step)


async def _rate_cards(reconciliation: Reconciliation, book: Book, desired: Desired) -> None:
    if desired.rate_cards is None or not reconciliation.permit("rate_cards", Permission.RATE_CARD_WRITE):
        return
    for number, card in enumerate(desired.rate_cards):
        await reconciliation.attempt(f"rate_cards[{number}]", _rate_card(reconciliation, book, card))


async def _rate_card(reconciliation: Reconciliation, book: Book, card: NewRateCard) -> None:
    row = book.find(RATE_CARD, card.rate_card_id)
    if row is None:
        # Those of the same application have not been in force: the history of a model may come with one.
        await check_new_card(reconciliation.work, card, book.all(RATE_CARD))
    else:
        check_end(reconciliation.work, row, card.effective_to)
    await reconciliation.entry(RATE_CARD, row, card.model_dump(), card.rate_card_id)


def _left(reconciliation: Reconciliation, book: Book, desired: Desired) -> Iterator[tuple[str, str]]:
    """Kind and name of what is in force in the book and in no file. Of a part that the desired state does not speak of,
    nothing is told."""
    tables: list[tuple[Table, Any]] = [
        (TENANT, desired.tenants), (TRUST_KEY, desired.trust_keys), (UPSTREAM, desired.upstreams),
        (RATE_CARD, desired.rate_cards), (CONTRIBUTION, desired.contributions), (MODEL, desired.models),
    ]  # fmt: skip
    for table, entries in tables:
        if entries is not None:
            yield from ((table.kind, table.object_id(row)) for row in _unnamed(reconciliation, table, book.all(table)))
    own = {tenant.tenant_id for tenant in desired.tenants or ()}
    agreements = (AGREEMENT,) if allows(reconciliation.work.actor.role, Permission.AGREEMENT_WRITE) else ()
    for table in (PROJECT, KEY, CLIENT, ISSUER, *agreements):
        rows = [row for row in book.all(table) if row["tenant_id"] in own]
        for row in _unnamed(reconciliation, table, rows):
            if not superseded(reconciliation.work, book, row):
                yield table.kind, _name(table, row)
    licences = [row for row in book.licences.values() if row["tenant_id"] in own and row["envelope"] is not None]
    yield from ((LICENCE.kind, row["licence_id"]) for row in _unnamed(reconciliation, LICENCE, licences))


def _name(table: Table, row: Row) -> str:
    return table.object_id(row) if table in (PROJECT, AGREEMENT) else credential_name(table, row)


def _unnamed(reconciliation: Reconciliation, table: Table, rows: Any) -> Iterator[Row]:
    for row in rows:
        ended = any(row.get(column) for column in ENDS)
        if not ended and not reconciliation.names(table, row):
            yield row
