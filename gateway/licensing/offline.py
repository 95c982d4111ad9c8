"""Verification from files alone: what `sekisho licence verify` can say without a database. Pure; the caller reads."""

from collections.abc import Callable
from typing import Literal

from gateway.licensing.admit import check_not_expired, ends_at
from gateway.licensing.document import LicenceDocument, Validity
from gateway.licensing.envelope import Sealed
from gateway.licensing.findings import Finding
from gateway.licensing.registers import Registers
from gateway.licensing.times import from_us, to_us
from gateway.licensing.trust import LicenceStatus, Trust
from gateway.licensing.verify import verify

Phase = Literal["not_yet", "in_force", "grace", "ended"]
FindParent = Callable[[str], Sealed | None]


class ParentNotFound(Exception):
    """The licence names a parent whose envelope was not found, so whether it lies within it cannot be checked."""

    def __init__(self, licence_id: str) -> None:
        super().__init__(licence_id)
        self.licence_id = licence_id


def phase(validity: Validity, now: int) -> Phase:
    """Where `now` (microseconds since the epoch) lies in a licence's life."""
    if now < to_us(validity.not_before):
        return "not_yet"
    if now < to_us(validity.not_after):
        return "in_force"
    return "grace" if now < ends_at(validity) else "ended"


def check_offline(sealed: Sealed, trust: Trust, registers: Registers, find_parent: FindParent, now: int) -> None:
    """Raise a `Finding` unless the licence verifies, is the newest the trust file knows, is not revoked, has not ended,
    and so are all the licences it is cut from. Raises `ParentNotFound` where one of them was not found."""
    document = sealed.document
    parent = None
    if document.parent is not None:
        parent = find_parent(document.parent.licence_id)
        if parent is None:
            raise ParentNotFound(document.parent.licence_id)
    verify(sealed, trust, registers, parent=None if parent is None else parent.document)
    _check_status(sealed, trust.licences.get(document.licence_id))
    check_not_expired(document, now)
    if parent is not None:
        # Ends: verification has just shown that each licence may be re-contracted fewer times than the one above it.
        _check_parent(document, parent, trust, registers, find_parent, now)


def _check_status(sealed: Sealed, status: LicenceStatus | None) -> None:
    if status is None:
        return
    version = sealed.document.version
    if status.revoked:
        raise Finding("revoked", "licence_id", f"version {status.version}")
    if version < status.version:
        raise Finding("superseded", "version", f"{version} by {status.version}")
    if version == status.version and status.digest and status.digest != sealed.digest:
        raise Finding("version_replayed", "version", f"version {version}, digest {status.digest[:16]}…")


def _check_parent(
    child: LicenceDocument, parent: Sealed, trust: Trust, registers: Registers, find_parent: FindParent, now: int
) -> None:
    assert child.parent is not None
    above = f"{parent.document.licence_id}@{parent.document.version}"
    if child.parent.version > parent.document.version:
        raise Finding("parent_not_in_force", "parent.version", f"{child.parent.version}, the newest found is {above}")
    try:
        check_offline(parent, trust, registers, find_parent, now)
    except Finding as finding:
        raise Finding("parent_not_in_force", "parent", f"{above}: {finding.code}") from finding


def span(validity: Validity) -> str:
    """The validity in UTC, with its grace."""
    grace = f" + {validity.grace_days} d" if validity.grace_days else ""
    return f"{from_us(to_us(validity.not_before))} – {from_us(to_us(validity.not_after))}{grace}"
