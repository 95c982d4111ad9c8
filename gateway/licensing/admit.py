"""Admission: everything that is checked before a licence is stored. Pure; the caller gives the time and the store.

A licence grows by one version at a time. Its tenant, its issuer and the licence it is cut from never change, and a
revocation is final: a later version may have been signed before it, so it would undo what was revoked.
"""

from collections.abc import Mapping

from gateway.licensing.document import LicenceDocument, StoredLicence, Validity
from gateway.licensing.envelope import Sealed, open_envelope
from gateway.licensing.findings import Finding
from gateway.licensing.registers import Registers
from gateway.licensing.times import DAY_US, from_us, to_us
from gateway.licensing.trust import Trust
from gateway.licensing.verify import verify


def admit(
    text: str | bytes, trust: Trust, registers: Registers, newest: Mapping[str, StoredLicence], now: int
) -> Sealed:
    """The envelope, if it may be stored at `now` (microseconds since the epoch) beside `newest`, the highest stored
    version of each licence by its id. Raises `Finding`.

    The very text that is stored already is admitted again: the caller has nothing to store then.
    """
    sealed = open_envelope(text, trust)
    parent = None if sealed.document.parent is None else newest.get(sealed.document.parent.licence_id)
    verify(sealed, trust, registers, parent=None if parent is None else parent.document)
    check_version(sealed, newest.get(sealed.document.licence_id))
    check_not_expired(sealed.document, now)
    check_ancestors(sealed.document, newest, now)
    return sealed


def ends_at(validity: Validity) -> int:
    """When a licence stops to permit anything, its grace included. Microseconds since the epoch, exclusive."""
    return to_us(validity.not_after) + validity.grace_days * DAY_US


def check_not_expired(document: LicenceDocument, now: int) -> None:
    """Raise `Finding` expired once the licence and its grace are over."""
    end = ends_at(document.validity)
    if now >= end:
        raise Finding("expired", "validity.not_after", f"ended {from_us(end)}")


def check_version(sealed: Sealed, stored: StoredLicence | None) -> None:
    """Raise a `Finding` unless the document is the next version of `stored`, the highest one there is (None: the
    first), or the stored one itself."""
    document = sealed.document
    if stored is None:
        if document.version != 1:
            raise Finding("version_not_next", "version", f"{document.version}, none is stored")
        if document.supersedes is not None:
            raise Finding("supersession_mismatch", "supersedes", f"{document.supersedes}, none is stored")
        return
    highest = stored.document.version
    if stored.revoked_at is not None:
        raise Finding("revoked", "licence_id", f"version {highest}, {from_us(stored.revoked_at)}")
    if document.version < highest:
        raise Finding("superseded", "version", f"{document.version} by {highest}")
    if document.version == highest:
        if sealed.digest != stored.digest:
            raise Finding("version_replayed", "version", f"version {highest}, digest {stored.digest[:16]}…")
        return
    _check_continues(document, stored.document)


def _check_continues(document: LicenceDocument, stored: LicenceDocument) -> None:
    if document.version != stored.version + 1:
        raise Finding("version_not_next", "version", f"{document.version} after {stored.version}")
    if document.supersedes != stored.version:
        raise Finding("supersession_mismatch", "supersedes", f"{document.supersedes}, the newest is {stored.version}")
    if document.licensee.tenant != stored.licensee.tenant:
        raise Finding("tenant_mismatch", "licensee.tenant", f"the licence is {stored.licensee.tenant}'s")
    if document.issuer != stored.issuer:
        raise Finding("supersession_mismatch", "issuer", f"the licence was issued by {stored.issuer}")
    if _parent_id(document) != _parent_id(stored):
        raise Finding("supersession_mismatch", "parent", f"the licence was cut from {_parent_id(stored) or 'none'}")


def check_ancestors(document: LicenceDocument, newest: Mapping[str, StoredLicence], now: int) -> None:
    """Raise a `Finding` unless `document` is cut from the newest version of its parent, and every licence above it is
    neither revoked nor expired. Each step goes up one tenant; the bound only guards against a broken store."""
    if document.parent is None:
        return
    named = document.parent.version
    current = document
    for _ in range(len(newest) + 1):
        if current.parent is None:
            return
        above = newest.get(current.parent.licence_id)
        if above is None:
            raise Finding("parent_missing", "parent.licence_id", current.parent.licence_id)
        if current is document and named != above.document.version:
            raise Finding("parent_not_in_force", "parent.version", f"{named}, the newest is {above.document.version}")
        _check_in_force(above, now)
        current = above.document
    raise Finding("parent_not_in_force", "parent", "the line of parents has no end")


def _check_in_force(stored: StoredLicence, now: int) -> None:
    name = f"{stored.document.licence_id}@{stored.document.version}"
    if stored.revoked_at is not None:
        raise Finding("parent_not_in_force", "parent", f"{name} is revoked")
    if now >= ends_at(stored.document.validity):
        raise Finding("parent_not_in_force", "parent", f"{name} has ended")


def _parent_id(document: LicenceDocument) -> str:
    return "" if document.parent is None else document.parent.licence_id
