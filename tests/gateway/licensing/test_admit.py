"""Admission: versions, supersession, revocation, time and the line of parents."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pytest

from gateway.licensing.admit import admit, ends_at
from gateway.licensing.document import StoredLicence
from gateway.licensing.findings import Finding
from gateway.licensing.registers import REGISTERS
from gateway.licensing.times import to_us
from tests.gateway.licensing.contracts import (
    DAY,
    NOW,
    SUBCONTRACTOR,
    TENANT,
    a_child,
    a_document,
    changed,
    parsed,
    the_parties,
)

PARTIES = the_parties()
Newest = Mapping[str, StoredLicence]


def found(document: Mapping[str, Any], newest: Newest | None = None, now: int = NOW) -> tuple[str, str]:
    """Code and path of the finding that admission raises; ('', '') where it admits."""
    try:
        admit(PARTIES.sealed_text(document), PARTIES.trust, REGISTERS, newest or {}, now)
    except Finding as finding:
        return finding.code, finding.path
    return "", ""


def book(*documents: Mapping[str, Any], revoked: str = "") -> Newest:
    stored = (
        PARTIES.stored(document, NOW - DAY if document["licence_id"] == revoked else None) for document in documents
    )
    return {licence.document.licence_id: licence for licence in stored}


def us(text: str) -> int:
    return to_us(datetime.fromisoformat(text))


def test_first_version_is_admitted_and_returned() -> None:
    sealed = admit(PARTIES.sealed_text(a_document()), PARTIES.trust, REGISTERS, {}, NOW)
    assert sealed.document == parsed(a_document())


def test_next_version_is_admitted_and_may_take_away() -> None:
    assert found(a_document(version=2, supersedes=1), book(a_document())) == ("", "")
    narrower = a_document(version=2, supersedes=1, **{"grants.0.actions": ["chat"]})
    assert found(narrower, book(a_document())) == ("", "")


@pytest.mark.parametrize(
    ("changes", "code", "path"),
    [
        ({"version": 1, "supersedes": None, "duties": []}, "superseded", "version"),
        ({"version": 2, "supersedes": 1, "duties": []}, "superseded", "version"),
        ({"version": 3, "supersedes": 2, "duties": []}, "version_replayed", "version"),
        ({"version": 5, "supersedes": 3}, "version_not_next", "version"),
        ({"version": 4, "supersedes": 2}, "supersession_mismatch", "supersedes"),
        ({"version": 4, "supersedes": None}, "supersession_mismatch", "supersedes"),
        ({"version": 4, "supersedes": 4}, "supersession_mismatch", "supersedes"),
        ({"version": 4, "supersedes": 3, "licensee.tenant": "other", "delegation.to": []}, "tenant_mismatch",
         "licensee.tenant"),
        ({"version": 4, "supersedes": 3, "issuer": "another issuer"}, "supersession_mismatch", "issuer"),
        ({"version": 4, "supersedes": 3}, "", ""),
    ],
)  # fmt: skip
def test_version_that_does_not_continue_the_newest_is_refused(changes: dict[str, Any], code: str, path: str) -> None:
    newest = book(a_document(version=3, supersedes=2))
    assert found(a_document(**changes), newest) == (code, path)


def test_first_version_must_be_one_and_replace_none() -> None:
    assert found(a_document(version=2, supersedes=1)) == ("version_not_next", "version")
    assert found(a_document(version=2)) == ("version_not_next", "version")
    assert found(a_document(supersedes=1)) == ("supersession_mismatch", "supersedes")


def test_the_stored_text_itself_is_admitted_again_but_not_its_content_signed_anew() -> None:
    newest = book(a_document())
    assert found(a_document(), newest) == ("", "")
    by_both_keys_of_the_issuer = the_parties()
    text = by_both_keys_of_the_issuer.sealed_text(a_document())
    with pytest.raises(Finding) as raised:
        admit(text, by_both_keys_of_the_issuer.trust, REGISTERS, newest, NOW)
    assert raised.value.code == "version_replayed"


def test_revocation_is_final_for_the_licence() -> None:
    newest = book(a_document(), revoked="lic-acme")
    assert found(a_document(), newest) == ("revoked", "licence_id")
    assert found(a_document(version=2, supersedes=1), newest) == ("revoked", "licence_id")
    assert found(a_document(licence_id="lic-acme-b"), newest) == ("", "")


def test_licence_cannot_become_a_child_or_change_its_parent_in_a_later_version() -> None:
    first, parent = a_document(), a_document(licence_id="lic-b")
    child = a_child()
    moved = a_child(version=2, supersedes=1, parent={"licence_id": "lic-b", "version": 1})
    assert found(moved, book(first, parent, child)) == ("supersession_mismatch", "parent")
    freed = a_document(licence_id="lic-subby", version=2, supersedes=1, issuer=TENANT)
    freed["licensee"] = child["licensee"]
    freed["delegation"] = child["delegation"]
    assert found(freed, book(first, child))[0] == "supersession_mismatch"


@pytest.mark.parametrize(
    ("now", "code"),
    [
        ("2020-01-01T00:00:00Z", ""),  # signed ahead of its start
        ("2027-03-31T14:59:59.999999Z", ""),
        ("2027-03-31T15:00:00Z", ""),  # grace begins
        ("2027-04-15T00:00:00+14:00", ""),
        ("2027-04-14T23:59:59.999999+09:00", ""),
        ("2027-04-15T00:00:00+09:00", "expired"),
        ("2027-04-14T15:00:00Z", "expired"),
        ("2027-04-14T10:00:00-05:00", "expired"),
    ],
)
def test_licence_ends_with_its_grace_to_the_microsecond_in_every_zone(now: str, code: str) -> None:
    assert found(a_document(), now=us(now))[0] == code


@pytest.mark.parametrize(
    ("not_after", "grace_days", "end"),
    [
        ("2027-01-31T00:00:00+09:00", 28, "2027-02-28T00:00:00+09:00"),
        ("2028-01-31T00:00:00+09:00", 30, "2028-03-01T00:00:00+09:00"),
        ("2028-02-29T12:00:00Z", 1, "2028-03-01T12:00:00Z"),
        ("2027-12-31T23:59:59.999999Z", 1, "2028-01-01T23:59:59.999999Z"),
        # A day of grace is 24 hours, whatever clocks do in some zone.
        ("2027-03-28T00:00:00+01:00", 1, "2027-03-29T01:00:00+02:00"),
    ],
)
def test_grace_counts_days_of_24_hours_over_month_ends(not_after: str, grace_days: int, end: str) -> None:
    validity = parsed(a_document(**{"validity.not_after": not_after, "validity.grace_days": grace_days})).validity
    assert ends_at(validity) == us(end)


def test_child_is_admitted_beside_its_parent() -> None:
    assert found(a_child(), book(a_document())) == ("", "")


def test_child_without_a_stored_parent_is_refused() -> None:
    assert found(a_child()) == ("parent_missing", "parent.licence_id")


def test_child_must_be_cut_from_the_newest_version_of_its_parent() -> None:
    newest = book(a_document(version=2, supersedes=1))
    assert found(a_child(), newest) == ("parent_not_in_force", "parent.version")
    assert found(a_child(parent={"licence_id": "lic-acme", "version": 3}), newest)[0] == "parent_not_in_force"
    assert found(a_child(parent={"licence_id": "lic-acme", "version": 2}), newest) == ("", "")


def test_child_of_a_revoked_parent_is_refused() -> None:
    assert found(a_child(), book(a_document(), revoked="lic-acme")) == ("parent_not_in_force", "parent")


def test_child_of_an_expired_parent_is_refused_like_the_child_itself() -> None:
    after = us("2027-04-20T00:00:00Z")
    assert found(a_child(), book(a_document()), now=after)[0] == "expired"


def test_child_is_refused_while_any_licence_above_it_is_not_in_force() -> None:
    child, grandchild = a_child(), a_grandchild()
    assert found(grandchild, book(a_document(), child)) == ("", "")
    assert found(grandchild, book(child)) == ("parent_missing", "parent.licence_id")
    assert found(grandchild, book(a_document(), child, revoked="lic-acme")) == ("parent_not_in_force", "parent")
    ended = a_document(**{"validity.not_after": "2026-06-01T00:00:00Z", "validity.grace_days": 0})
    assert found(grandchild, book(ended, child)) == ("parent_not_in_force", "parent")


def test_line_of_parents_ends_where_delegation_ends() -> None:
    great_grandchild = changed(
        a_grandchild(),
        {"licence_id": "lic-fourth", "issuer": "other", "licensee.tenant": TENANT, "parent.licence_id": "lic-other"},
    )
    newest = book(a_document(), a_child(), a_grandchild())
    assert found(great_grandchild, newest) == ("delegation_not_allowed", "parent")


def a_grandchild() -> dict[str, Any]:
    child = a_child(
        licence_id="lic-other", issuer=SUBCONTRACTOR, delegation={}, parent={"licence_id": "lic-subby", "version": 1}
    )
    child["licensee"]["tenant"] = "other"
    return child
