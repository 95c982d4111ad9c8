"""Verification: whose signatures, what the document means, and that a child lies within its parent."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from gateway.licensing.envelope import Signature, open_envelope, seal, write_envelope
from gateway.licensing.findings import Finding
from gateway.licensing.keys import SigningKey
from gateway.licensing.registers import REGISTERS
from gateway.licensing.trust import Role, Trust
from gateway.licensing.verify import verify
from tests.gateway.licensing.contracts import (
    DAY,
    ISSUER,
    SUBCONTRACTOR,
    TENANT,
    Parties,
    a_child,
    a_document,
    a_grant,
    parsed,
    the_parties,
    trusted,
)

PARTIES = the_parties()
PARENT = parsed(a_document())
# 2026-03-20T10:00:00+09:00, when the contract was signed.
SIGNED_AT = 1_773_968_400_000_000


def found(text: str, parties: Parties = PARTIES, parent: Mapping[str, Any] | None = None) -> tuple[str, str]:
    """Code and path of the finding that verification raises; ('', '') where it is good."""
    try:
        above = None if parent is None else parsed(parent)
        verify(open_envelope(text), parties.trust, REGISTERS, parent=above)
    except Finding as finding:
        return finding.code, finding.path
    return "", ""


def signed_by(document: Mapping[str, Any], *names: tuple[Role, str]) -> str:
    return seal(document, [PARTIES.keys[name] for name in names])


def test_licence_signed_by_both_parties_is_good() -> None:
    assert found(PARTIES.sealed_text(a_document())) == ("", "")


def test_child_signed_by_the_parents_tenant_and_its_own_is_good() -> None:
    assert found(PARTIES.sealed_text(a_child()), parent=a_document()) == ("", "")


@pytest.mark.parametrize(
    "names",
    [(), (("issuer", ISSUER),), (("licensee", TENANT),)],
)
def test_missing_signature_is_refused(names: tuple[tuple[Role, str], ...]) -> None:
    assert found(signed_by(a_document(), *names)) == ("signature_missing", "signatures")


def test_missing_signature_is_told_by_its_party() -> None:
    with pytest.raises(Finding, match=f"issuer {ISSUER}"):
        verify(open_envelope(signed_by(a_document(), ("licensee", TENANT))), PARTIES.trust, REGISTERS, parent=None)
    with pytest.raises(Finding, match=f"licensee {TENANT}"):
        verify(open_envelope(signed_by(a_document(), ("issuer", ISSUER))), PARTIES.trust, REGISTERS, parent=None)


@pytest.mark.parametrize(
    "stranger",
    [("licensee", SUBCONTRACTOR), ("issuer", "another issuer"), ("issuer", TENANT)],
)
def test_signature_of_another_party_or_role_is_refused_even_beside_good_ones(stranger: tuple[Role, str]) -> None:
    text = signed_by(a_document(), ("issuer", ISSUER), ("licensee", TENANT), stranger)
    assert found(text)[0] == "signature_foreign"


def test_signature_of_an_unknown_key_is_refused_even_beside_good_ones() -> None:
    keys = [PARTIES.keys["issuer", ISSUER], PARTIES.keys["licensee", TENANT], SigningKey.generate()]
    assert found(seal(a_document(), keys))[0] == "signature_foreign"


def test_issuers_key_does_not_sign_for_a_child_nor_a_licensees_key_for_a_first_licence() -> None:
    child = a_child()
    assert found(signed_by(child, ("issuer", TENANT), ("licensee", SUBCONTRACTOR)), parent=a_document())[0] == (
        "signature_foreign"
    )
    first = a_document(issuer=SUBCONTRACTOR)
    assert found(signed_by(first, ("licensee", SUBCONTRACTOR), ("licensee", TENANT)))[0] == "signature_foreign"


def test_signature_of_other_content_is_refused_though_both_keys_are_good() -> None:
    other = open_envelope(PARTIES.sealed_text(a_document(version=2)))
    text = write_envelope(open_envelope(PARTIES.sealed_text(a_document())).payload, other.signatures)
    assert found(text)[0] == "signature_invalid"


def test_key_that_is_listed_under_another_id_does_not_count_as_a_second_one() -> None:
    issuer = PARTIES.keys["issuer", ISSUER]
    false_id = "0" * 64
    listed = replace(trusted(issuer, "licensee", TENANT), key_id=false_id)
    trust = Trust({**PARTIES.trust.keys, false_id: listed})
    sealed = open_envelope(seal(a_document(), [issuer]))
    [signature] = sealed.signatures
    text = write_envelope(sealed.payload, [signature, Signature(false_id, signature.value)])
    assert found(text, Parties(PARTIES.keys, trust))[0] == "signature_foreign"


def test_two_signatures_of_one_party_do_not_stand_for_two_parties() -> None:
    second = SigningKey.generate()
    trust = Trust({**PARTIES.trust.keys, second.key_id: trusted(second, "issuer", ISSUER)})
    text = seal(a_document(), [PARTIES.keys["issuer", ISSUER], second])
    assert found(text, Parties(PARTIES.keys, trust)) == ("signature_missing", "signatures")


def test_a_party_may_sign_with_its_old_and_its_new_key_while_both_are_in_force() -> None:
    second = SigningKey.generate()
    trust = Trust({**PARTIES.trust.keys, second.key_id: trusted(second, "issuer", ISSUER)})
    text = seal(a_document(), [PARTIES.keys["issuer", ISSUER], second, PARTIES.keys["licensee", TENANT]])
    assert found(text, Parties(PARTIES.keys, trust)) == ("", "")


@pytest.mark.parametrize(("role", "party"), [("issuer", ISSUER), ("licensee", TENANT)])
@pytest.mark.parametrize(
    ("period", "code"),
    [
        ({"revoked_at": SIGNED_AT + 300 * DAY}, "key_revoked"),
        ({"not_before": SIGNED_AT + 1}, "key_not_in_force"),
        ({"not_before": SIGNED_AT}, ""),
        ({"not_after": SIGNED_AT}, "key_not_in_force"),
        ({"not_after": SIGNED_AT + 1}, ""),
    ],
)
def test_key_counts_from_its_start_to_its_end_and_never_once_revoked(
    role: Role, party: str, period: dict[str, int], code: str
) -> None:
    text = PARTIES.sealed_text(a_document())
    assert found(text, PARTIES.with_key(role, party, **period))[0] == code


def test_without_a_contract_date_the_start_of_the_licence_decides_which_keys_were_in_force() -> None:
    start = 1_774_969_200_000_000  # 2026-04-01T00:00:00+09:00
    text = PARTIES.sealed_text(a_document(contract_ref=None))
    assert found(text, PARTIES.with_key("issuer", ISSUER, not_after=start))[0] == "key_not_in_force"
    assert found(text, PARTIES.with_key("issuer", ISSUER, not_after=start + 1))[0] == ""


@pytest.mark.parametrize(
    ("changes", "code", "path"),
    [
        ({"grants.0.actions": ["chat", "divine"]}, "unknown_code", "grants[0].actions[1]"),
        ({"grants.0.actions": ["*"]}, "unknown_code", "grants[0].actions[0]"),
        ({"grants.0.purposes": ["warfare"]}, "unknown_code", "grants[0].purposes[0]"),
        ({"grants.0.data_classes": ["top"]}, "unknown_code", "grants[0].data_classes[0]"),
        ({"grants.0.regions": ["jp-east", "us"]}, "unknown_code", "grants[0].regions[1]"),
        ({"grants.0.tiers": ["orbit"]}, "unknown_code", "grants[0].tiers[0]"),
        ({"prohibitions.0.match.purposes": ["warfare"]}, "unknown_code", "prohibitions[0].match.purposes[0]"),
        ({"prohibitions.0.match": {"actions": ["*"]}}, "", ""),
        ({"grants.0.regions": ["*", "jp-east"]}, "wildcard_not_alone", "grants[0].regions"),
        ({"grants.0.adapters": ["a1", "*"]}, "wildcard_not_alone", "grants[0].adapters"),
        ({"grants": [a_grant(), a_grant()]}, "duplicate_clause", "grants[1].id"),
        ({"prohibitions": [{"id": "p", "match": {}, "reason": "x"}] * 2}, "duplicate_clause", "prohibitions[1].id"),
        ({"grants.0.models": ["base", "a b"]}, "invalid_model_pattern", "grants[0].models[1]"),
        ({"grants.0.models": ["base[0-9]"]}, "invalid_model_pattern", "grants[0].models[0]"),
        ({"grants.0.models": ["bas?"]}, "invalid_model_pattern", "grants[0].models[0]"),
        ({"prohibitions.0.match.models": ["@>=1"]}, "invalid_model_pattern", "prohibitions[0].match.models[0]"),
        ({"grants.0.models": ["base@"]}, "invalid_version_range", "grants[0].models[0]"),
        ({"grants.0.models": ["base@1.2"]}, "invalid_version_range", "grants[0].models[0]"),
        ({"grants.0.models": ["base@>=1.0rc1"]}, "invalid_version_range", "grants[0].models[0]"),
        ({"grants.0.models": ["base@===1.0"]}, "invalid_version_range", "grants[0].models[0]"),
        ({"grants.0.models": ["base@~=1"]}, "invalid_version_range", "grants[0].models[0]"),
        ({"grants.0.models": ["base@>=1.*"]}, "invalid_version_range", "grants[0].models[0]"),
        ({"grants.0.models": ["base@>=1,"]}, "invalid_version_range", "grants[0].models[0]"),
        ({"grants.0.models": ["base@>=1.2.3.4.5"]}, "invalid_version_range", "grants[0].models[0]"),
        ({"validity.not_after": "2026-04-01T00:00:00+09:00"}, "invalid_validity", "validity.not_after"),
        ({"validity.not_after": "2026-03-31T15:00:00Z"}, "invalid_validity", "validity.not_after"),
        ({"validity.not_before": "0206-04-01T00:00:00Z"}, "invalid_validity", "validity.not_before"),
        ({"validity.not_after": "9999-12-31T23:59:59-12:00"}, "invalid_validity", "validity.not_after"),
        ({"ip.exclusive.0.until": "3026-12-01T00:00:00Z"}, "invalid_validity", "ip.exclusive[0].until"),
        ({"licensee.hojin_bangou": "1234567890123"}, "invalid_hojin_bangou", "licensee.hojin_bangou"),
        ({"licensee.hojin_bangou": "870011000590"}, "invalid_hojin_bangou", "licensee.hojin_bangou"),
        ({"licensee.hojin_bangou": "８700110005901"}, "invalid_hojin_bangou", "licensee.hojin_bangou"),
        ({"licensee.hojin_bangou": "5835678256246"}, "", ""),
        ({"licensee.hojin_bangou": "7000012050002"}, "", ""),
        ({"licensee.hojin_bangou": ""}, "", ""),
        ({"delegation": {"allowed": True}}, "invalid_delegation", "delegation.max_depth"),
        ({"delegation": {"max_depth": 1}}, "invalid_delegation", "delegation.max_depth"),
        ({"delegation": {"to": ["other"]}}, "invalid_delegation", "delegation.to"),
        ({"delegation": {"allowed": True, "max_depth": 1, "to": [TENANT]}}, "invalid_delegation", "delegation.to"),
    ],
)
def test_document_without_a_right_meaning_is_told_by_its_field(changes: dict[str, Any], code: str, path: str) -> None:
    assert found(PARTIES.sealed_text(a_document(**changes))) == (code, path)


def test_one_party_cannot_contract_with_itself() -> None:
    text = signed_by(a_document(issuer=TENANT), ("issuer", TENANT), ("licensee", TENANT))
    assert found(text) == ("same_party", "issuer")


@pytest.mark.parametrize(
    ("child", "parent", "code", "path"),
    [
        ({}, None, "parent_missing", "parent.licence_id"),
        ({}, {"licence_id": "lic-other"}, "parent_missing", "parent.licence_id"),
        ({}, {"licensee.tenant": "other", "delegation.to": []}, "tenant_mismatch", "issuer"),
        ({}, {"delegation": {}}, "delegation_not_allowed", "parent"),
        ({}, {"delegation.to": ["other"]}, "delegation_not_allowed", "licensee.tenant"),
        ({}, {"delegation.max_depth": 1}, "delegation_too_deep", "delegation.max_depth"),
        ({"delegation.max_depth": 2}, {}, "delegation_too_deep", "delegation.max_depth"),
        ({}, {"delegation.to": []}, "", ""),
    ],
)
def test_child_that_its_parent_does_not_foresee_is_refused(
    child: dict[str, Any], parent: dict[str, Any] | None, code: str, path: str
) -> None:
    above = None if parent is None else a_document(**parent)
    assert found(PARTIES.sealed_text(a_child(**child)), parent=above) == (code, path)
