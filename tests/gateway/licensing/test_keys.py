"""Signing keys and trust files: what is written is what is read, and nothing else passes for one."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from gateway.licensing.keys import KeyFileError, SigningKey, key_id_of, signature_is_valid
from gateway.licensing.trust import LicenceStatus, Trust, TrustFileError, TrustKey, dump_trust, load_trust, parse_trust

KEY = SigningKey.generate()


def test_key_id_is_the_digest_of_the_subject_public_key_info() -> None:
    public = Ed25519PublicKey.from_public_bytes(KEY.public_bytes)
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert KEY.key_id == key_id_of(KEY.public_bytes) == hashlib.sha256(der).hexdigest()


def test_signatures_are_those_of_rfc_8032() -> None:
    # RFC 8032 §7.1, test 2.
    key = SigningKey(
        Ed25519PrivateKey.from_private_bytes(
            bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
        )
    )
    assert key.public_bytes.hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    signature = key.sign(bytes.fromhex("72"))
    assert signature.hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert signature_is_valid(key.public_bytes, signature, b"\x72")
    assert not signature_is_valid(key.public_bytes, signature, b"\x73")
    assert not signature_is_valid(b"\x02" * 31, signature, b"\x72")


def test_signature_with_its_scalar_raised_by_the_group_order_is_refused() -> None:
    order = 2**252 + 27742317777372353535851937790883648493
    signature = KEY.sign(b"x")
    raised = int.from_bytes(signature[32:], "little") + order
    assert not signature_is_valid(KEY.public_bytes, signature[:32] + raised.to_bytes(32, "little"), b"x")


def test_key_survives_its_file_and_never_shows_itself(tmp_path: Path) -> None:
    KEY.write(tmp_path / "new" / "k.pem")
    assert SigningKey.read(tmp_path / "new" / "k.pem").key_id == KEY.key_id
    assert repr(KEY) == f"SigningKey({KEY.key_id})"
    with pytest.raises(FileExistsError):
        SigningKey.generate().write(tmp_path / "new" / "k.pem")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["k.pem"]


def _pem(key: Any, encryption: Any = None) -> bytes:
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())
    return pem


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"no key",
        _pem(generate_private_key(65537, 2048)),
        _pem(Ed25519PrivateKey.generate(), BestAvailableEncryption(b"secret")),
    ],
)
def test_file_that_holds_no_plain_ed25519_key_is_refused(pem: bytes) -> None:
    with pytest.raises(KeyFileError):
        SigningKey.from_pem(pem)


def test_trust_survives_its_file(tmp_path: Path) -> None:
    other = SigningKey.generate()
    trust = Trust(
        {
            KEY.key_id: TrustKey(KEY.key_id, "issuer", "sekisho", KEY.public_bytes, 1, 1_795_507_200_000_001, 77),
            other.key_id: TrustKey(other.key_id, "licensee", "会社", other.public_bytes, 0),
        },
        {"lic-1": LicenceStatus(3, True, "ab"), "lic-2": LicenceStatus(1)},
    )
    path = tmp_path / "trust.json"
    path.write_text(dump_trust(trust), encoding="utf-8")
    assert load_trust(path) == trust


def _file(**changes: Any) -> bytes:
    entry = {
        "key_id": KEY.key_id, "role": "issuer", "party": "x", "public_key": base64.b64encode(KEY.public_bytes).decode(),
        "not_before": "2026-01-01T00:00:00Z", **changes,
    }  # fmt: skip
    return json.dumps({"v": 1, "keys": [entry]}).encode()


def test_trust_file_may_leave_out_what_is_open() -> None:
    [key] = parse_trust(_file()).keys.values()
    assert (key.not_after, key.revoked_at) == (None, None)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"\xff",
        b'{"v":2,"keys":[]}',
        b'{"v":1,"keys":[],"extra":1}',
        _file(role="owner"),
        _file(key_id="0" * 64),
        _file(public_key="AAAA"),
        _file(public_key="?"),
        _file(not_before="2026-01-01T00:00:00"),
        _file(surprise=1),
        _file().replace(b"]", b"," + _file()[len(b'{"v": 1, "keys": [') : -2] + b"]"),
    ],
)
def test_text_that_is_no_trust_file_is_refused(text: bytes) -> None:
    with pytest.raises(TrustFileError):
        parse_trust(text)
