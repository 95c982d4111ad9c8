"""The envelope: one text per document, and no other is read."""

import base64
import json
from collections import Counter
from typing import Any

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.signer import Key, SSlibKey  # type: ignore[attr-defined]

from gateway.licensing.admit import admit
from gateway.licensing.envelope import (
    ENVELOPE_BYTES_MAX,
    PAYLOAD_TYPE,
    add_signature,
    open_envelope,
    seal,
    signed_bytes,
    write_envelope,
)
from gateway.licensing.findings import Finding
from gateway.licensing.registers import REGISTERS
from tests.gateway.licensing.contracts import ISSUER, NOW, TENANT, a_document, changed, the_parties

PARTIES = the_parties()
DOCUMENT = a_document()
TEXT = PARTIES.sealed_text(DOCUMENT)
BOTH = [PARTIES.keys["issuer", ISSUER], PARTIES.keys["licensee", TENANT]]


def refusal(text: str | bytes) -> str:
    """The code of the finding that admission raises; '' where it admits."""
    try:
        admit(text, PARTIES.trust, REGISTERS, {}, NOW)
    except Finding as finding:
        return finding.code
    return ""


def rewritten(change: Any) -> str:
    """The envelope with its members changed by `change`, in canonical form again."""
    members = json.loads(TEXT)
    change(members)
    return rfc8785.dumps(members).decode()


def test_sealed_document_is_read_back_as_it_was() -> None:
    sealed = open_envelope(TEXT)
    assert json.loads(sealed.payload) == DOCUMENT
    assert sealed.text == TEXT
    assert sealed.document.licensee.legal_name == "Acme 株式会社"
    assert refusal(TEXT) == ""


def test_text_does_not_depend_on_the_order_of_signing() -> None:
    assert seal(DOCUMENT, BOTH) == seal(DOCUMENT, BOTH[::-1])
    assert add_signature(open_envelope(seal(DOCUMENT, BOTH[:1])), BOTH[1]) == TEXT
    assert add_signature(open_envelope(TEXT), BOTH[1]) == TEXT


def test_one_line_feed_at_the_end_changes_nothing_and_two_are_refused() -> None:
    assert open_envelope(TEXT + "\n") == open_envelope(TEXT)
    assert refusal(TEXT + "\n\n") == "not_canonical"
    assert refusal(TEXT + " ") == "not_canonical"


def test_signatures_are_over_the_pre_authentication_encoding_of_dsse() -> None:
    payload = open_envelope(TEXT).payload
    by_specification = b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)
    assert signed_bytes(payload) == by_specification


def test_an_independent_dsse_implementation_accepts_the_envelope() -> None:
    keys: list[Key] = []
    for key in BOTH:
        public = Ed25519PublicKey.from_public_bytes(key.public_bytes)
        keys.append(SSlibKey.from_crypto(public, keyid=key.key_id))
    accepted = Envelope.from_dict(json.loads(TEXT)).verify(keys, threshold=2)
    assert set(accepted) == {key.key_id for key in BOTH}


def test_any_changed_byte_is_refused() -> None:
    raw = TEXT.encode()
    seen: Counter[str] = Counter()
    for place in range(len(raw)):
        for mask in (0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xFF, 0x03):
            changed_byte = raw[:place] + bytes([raw[place] ^ mask]) + raw[place + 1 :]
            code = refusal(changed_byte)
            assert code, f"accepted with byte {place} xor {mask:#x}"
            seen[code] += 1
    assert {"signature_invalid", "signature_foreign", "malformed_envelope", "not_canonical"} <= set(seen)


def test_any_lost_added_or_doubled_byte_is_refused() -> None:
    raw = TEXT.encode()
    for place in range(len(raw)):
        assert refusal(raw[:place] + raw[place + 1 :]), f"accepted without byte {place}"
        for added in (raw[place : place + 1], b" ", b"A", b"=", b"\x00"):
            assert refusal(raw[:place] + added + raw[place:]), f"accepted with {added!r} at {place}"
    for end in range(len(raw)):
        assert refusal(raw[:end])


def leaves(node: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(node, dict):
        found = [leaf for name, below in node.items() for leaf in leaves(below, f"{path}.{name}")]
    elif isinstance(node, list):
        found = [leaf for place, below in enumerate(node) for leaf in leaves(below, f"{path}.{place}")]
    else:
        found = []
    return [*found, (path.lstrip("."), node)] if path else found


def other(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return value[:-1] + ("b" if value.endswith("a") else "a") if value else "a"
    if isinstance(value, list):
        return value[1:]
    return 7 if value is None else {}


@pytest.mark.parametrize(("path", "value"), leaves(DOCUMENT))
def test_no_field_can_change_or_vanish_under_its_signatures(path: str, value: Any) -> None:
    signatures = open_envelope(TEXT).signatures
    for replacement in (other(value), ...):
        if replacement is ... and path.rpartition(".")[2].isdigit():
            continue  # a list's entry is covered by the change of the list
        forged = write_envelope(rfc8785.dumps(changed(DOCUMENT, {path: replacement})), signatures)
        assert refusal(forged) in ("signature_invalid", "schema_invalid")


def test_change_that_keeps_the_form_is_told_as_changed() -> None:
    signatures = open_envelope(TEXT).signatures
    for path, value in (("grants.0.quota.rpm", 10**6), ("issuer", "mallory"), ("grants.0.purposes", ["unknown"])):
        forged = write_envelope(rfc8785.dumps(changed(DOCUMENT, {path: value})), signatures)
        assert refusal(forged) == "signature_invalid"


SIGNATURE = json.loads(TEXT)["signatures"][0]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "malformed_envelope"),
        ("null", "malformed_envelope"),
        ("[]", "malformed_envelope"),
        ('"x"', "malformed_envelope"),
        ("{}", "malformed_envelope"),
        (b"\xff\xfe", "malformed_envelope"),
        ("\ud800", "malformed_envelope"),
        ("[" * 50_000, "malformed_envelope"),
        ('{"payload":1e400}', "malformed_envelope"),
        ('{"payload":' + "1" * 10_000 + "}", "malformed_envelope"),
        ("x" * (ENVELOPE_BYTES_MAX + 1), "envelope_too_large"),
        (TEXT.replace('"payloadType"', '"payload":"","payloadType"', 1), "malformed_envelope"),
        (TEXT.replace(":", ": ", 1), "not_canonical"),
        (json.dumps(dict(reversed(json.loads(TEXT).items())), separators=(",", ":")), "not_canonical"),
        (rewritten(lambda m: m.update(extra=1)), "malformed_envelope"),
        (rewritten(lambda m: m.pop("signatures")), "malformed_envelope"),
        (rewritten(lambda m: m.update(payloadType="application/json")), "wrong_payload_type"),
        (rewritten(lambda m: m.update(payloadType=7)), "wrong_payload_type"),
        (rewritten(lambda m: m.update(payload=7)), "malformed_envelope"),
        (rewritten(lambda m: m.update(payload="€")), "malformed_envelope"),
        (rewritten(lambda m: m.update(payload="e30")), "malformed_envelope"),
        (rewritten(lambda m: m.update(payload="e31=")), "not_canonical"),
        (rewritten(lambda m: m.update(payload="e30=")), "signature_invalid"),
        (rewritten(lambda m: m.update(payload=base64.b64encode(b"{} ").decode())), "signature_invalid"),
        (rewritten(lambda m: m.update(payload=base64.b64encode(b"\xff").decode())), "signature_invalid"),
        (rewritten(lambda m: m.update(signatures={})), "malformed_envelope"),
        (rewritten(lambda m: m.update(signatures=[SIGNATURE] * 17)), "malformed_envelope"),
        (rewritten(lambda m: m.update(signatures=[SIGNATURE, SIGNATURE])), "signature_duplicate"),
        (rewritten(lambda m: m["signatures"].reverse()), "not_canonical"),
        (rewritten(lambda m: m.update(signatures=["x"])), "malformed_envelope"),
        (rewritten(lambda m: m["signatures"][0].update(cert="x")), "malformed_envelope"),
        (rewritten(lambda m: m["signatures"][0].update(keyid=None)), "malformed_envelope"),
        (rewritten(lambda m: m["signatures"][0].update(sig="AAAA")), "signature_malformed"),
        (rewritten(lambda m: m["signatures"][0].update(sig=SIGNATURE["sig"].rstrip("="))), "malformed_envelope"),
        (rewritten(lambda m: m["signatures"][0].update(sig="-" + SIGNATURE["sig"][1:])), "malformed_envelope"),
    ],
)
def test_malformed_envelope_is_told_by_its_cause(text: str | bytes, code: str) -> None:
    assert refusal(text) == code


def test_document_without_a_canonical_form_is_not_sealed() -> None:
    for value in (float("nan"), 2**53, "\ud800", {1: 2}):
        with pytest.raises(Finding) as raised:
            seal({"x": value}, BOTH)
        assert raised.value.code == "not_canonical"


def test_payload_follows_the_number_and_string_forms_of_rfc_8785() -> None:
    odd = {"duties": [{"x": [333333333.33333329, 1e30, 4.50, 2e-3, 1e-27], "s": '\u20ac$\u000f\nA\'B"\\"/'}]}
    payload = open_envelope(seal({**DOCUMENT, **odd}, BOTH)).payload.decode()
    assert '"x":[333333333.3333333,1e+30,4.5,0.002,1e-27]' in payload
    assert '"s":"€$\\u000f\\nA\'B\\"\\\\\\"/"' in payload


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=8), below, max_size=4),
    max_leaves=12,
)
members = st.fixed_dictionaries(
    {"payload": values, "payloadType": st.just(PAYLOAD_TYPE) | values, "signatures": values | st.lists(
        st.fixed_dictionaries({"keyid": values, "sig": values}), max_size=3)},
)  # fmt: skip


@settings(max_examples=2000, deadline=None)
@given(st.binary(max_size=200) | values.map(lambda value: json.dumps(value).encode()))
def test_garbage_raises_nothing_but_findings(raw: bytes) -> None:
    assert refusal(raw)


@settings(max_examples=2000, deadline=None)
@given(members)
def test_garbage_in_the_members_raises_nothing_but_findings(tree: Any) -> None:
    assert refusal(
        json.dumps(tree, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    )


@settings(max_examples=2000, deadline=None)
@given(values)
def test_garbage_in_the_payload_raises_nothing_but_findings(tree: Any) -> None:
    payload = json.dumps(tree, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    assert refusal(write_envelope(payload, open_envelope(TEXT).signatures))
