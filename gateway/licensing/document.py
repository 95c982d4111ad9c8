"""Licence documents as stored, and their compilation into the index that `decide` reads.

This stage enforces models, actions and validity. The other fields of a document are kept and shown as not enforced
yet; an unsigned document says so wherever it is shown.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import msgspec

from gateway.licensing.decide import Grant, LicenceIndex

# Short ASCII names keep every audit record within its bound, whatever a licence says.
LicenceId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._:-]{1,32}$")]
GrantId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._:-]{1,24}$")]

ENFORCED = ("grants.models", "grants.actions", "validity.not_before", "validity.not_after")


class Validity(msgspec.Struct, frozen=True):
    """`not_before` inclusive, `not_after` exclusive, both RFC 3339 with an offset."""

    not_before: datetime
    not_after: datetime


class GrantClause(msgspec.Struct, frozen=True):
    """One grant of the document: its models and actions."""

    id: GrantId
    models: list[str]
    actions: list[str]


class Licensee(msgspec.Struct, frozen=True):
    """Who is licensed."""

    tenant: str


class LicenceDocument(msgspec.Struct, frozen=True):
    """The part of a licence document that this stage reads (see `docs/licences.md` for the whole form)."""

    licence_id: LicenceId
    version: int
    licensee: Licensee
    validity: Validity
    grants: list[GrantClause]


@dataclass(frozen=True, slots=True)
class StoredLicence:
    """A row of `licence`: the document and whether its signatures were verified."""

    document: LicenceDocument
    signed: bool
    revoked: bool = False


def parse_document(raw: bytes | str) -> LicenceDocument:
    """Raises `msgspec.ValidationError` with the path of the field at fault, or `ValueError` for a time without zone."""
    document = msgspec.json.decode(raw, type=LicenceDocument)
    for name in ("not_before", "not_after"):
        if getattr(document.validity, name).tzinfo is None:
            raise ValueError(f"validity.{name} has no offset from UTC")
    if document.validity.not_before >= document.validity.not_after:
        raise ValueError("validity.not_after is not later than validity.not_before")
    return document


def compile_index(licences: Iterable[StoredLicence]) -> LicenceIndex:
    """The index of all `licences`; of several versions of one licence only the highest counts (it supersedes)."""
    newest: dict[str, StoredLicence] = {}
    for licence in licences:
        known = newest.get(licence.document.licence_id)
        if known is None or known.document.version < licence.document.version:
            newest[licence.document.licence_id] = licence
    index: dict[str, dict[str, tuple[Grant, ...]]] = {}
    for licence_id in sorted(newest):
        if not newest[licence_id].revoked:  # a revoked version does not bring its predecessor back
            _add(index, newest[licence_id])
    return index


def _add(index: dict[str, dict[str, tuple[Grant, ...]]], licence: StoredLicence) -> None:
    document = licence.document
    models = index.setdefault(document.licensee.tenant, {})
    for clause in document.grants:
        grant = Grant(
            rule_id=f"{document.licence_id}/{clause.id}",
            licence_id=document.licence_id,
            licence_version=document.version,
            signed=licence.signed,
            actions=frozenset(clause.actions),
            not_before=_micros(document.validity.not_before),
            not_after=_micros(document.validity.not_after),
        )
        for model in clause.models:
            models[model] = (*models.get(model, ()), grant)


def _micros(at: datetime) -> int:
    return int(at.timestamp()) * 1_000_000 + at.microsecond
