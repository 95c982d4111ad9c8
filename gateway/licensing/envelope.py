"""The envelope of a licence or a policy: DSSE v1 (github.com/secure-systems-lab/dsse) around the RFC 8785 bytes of the
document.

There is exactly one text for a document and its signatures: RFC 8785 outside and inside, padded canonical base64
(RFC 4648 §4), signatures in the order of their key ids. Whatever else is read is refused, so a changed byte is either
no envelope any more or breaks a signature. One line feed at the end is allowed and does not count.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jiter
import msgspec
import rfc8785
from securesystemslib.dsse import Envelope

from gateway.licensing.document import LicenceDocument
from gateway.licensing.findings import Finding
from gateway.licensing.keys import SIGNATURE_BYTES, SigningKey, signature_is_valid
from gateway.licensing.trust import Trust

PAYLOAD_TYPE = "application/vnd.sekisho.licence+json"
ENVELOPE_BYTES_MAX = 256 * 1024
SIGNATURES_MAX = 16
_Document = TypeVar("_Document")
# msgspec names a missing or unknown member in its message, not in its path.
_MEMBER = re.compile(r"(?:missing required|unknown) field `(.*)`")


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature: the id of the key that is said to have made it, and its 64 bytes."""

    key_id: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Enclosed:
    """What an envelope of `payload_type` holds, in form. `text` and `digest` as in `Sealed`."""

    payload: bytes
    payload_type: str
    signatures: tuple[Signature, ...]
    digest: str
    text: str

    @property
    def signed_bytes(self) -> bytes:
        """What the signatures are over."""
        return signed_bytes(self.payload, self.payload_type)


@dataclass(frozen=True, slots=True)
class Sealed:
    """An envelope that was read: in form, but nothing about it is verified yet.

    `text` is the canonical text without a line feed at its end, `digest` its SHA-256 in hex.
    """

    payload: bytes
    document: LicenceDocument
    signatures: tuple[Signature, ...]
    digest: str
    text: str

    @property
    def signed_bytes(self) -> bytes:
        """What the signatures are over (DSSE's pre-authentication encoding of the payload)."""
        return signed_bytes(self.payload)


def signed_bytes(payload: bytes, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """DSSE's pre-authentication encoding (PAE) of a payload."""
    encoded: bytes = Envelope(payload, payload_type, {}).pae()
    return encoded


def seal(document: Mapping[str, Any], keys: Sequence[SigningKey], payload_type: str = PAYLOAD_TYPE) -> str:
    """The envelope of `document`, signed by each of `keys`. Raises `Finding` where it has no canonical form.

    It signs what it is given: verify afterwards.
    """
    payload = canonical(dict(document))
    data = signed_bytes(payload, payload_type)
    return write_envelope(payload, [Signature(key.key_id, key.sign(data)) for key in keys], payload_type)


def add_signature(sealed: Sealed | Enclosed, key: SigningKey) -> str:
    """The envelope with the key's signature added, or replaced where it has one already."""
    others = [signature for signature in sealed.signatures if signature.key_id != key.key_id]
    payload_type = sealed.payload_type if isinstance(sealed, Enclosed) else PAYLOAD_TYPE
    signature = Signature(key.key_id, key.sign(sealed.signed_bytes))
    return write_envelope(sealed.payload, [*others, signature], payload_type)


def write_envelope(payload: bytes, signatures: Sequence[Signature], payload_type: str = PAYLOAD_TYPE) -> str:
    """The canonical text of an envelope."""
    return canonical(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": payload_type,
            "signatures": [
                {"keyid": signature.key_id, "sig": base64.b64encode(signature.value).decode()}
                for signature in sorted(signatures, key=lambda signature: signature.key_id)
            ],
        }
    ).decode()


def canonical(value: Any) -> bytes:
    """RFC 8785 bytes of a JSON value. Raises `Finding` for what RFC 8785 has no bytes for."""
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, RecursionError) as error:
        raise Finding("not_canonical", "", f"no canonical form: {error}") from None


def open_envelope(text: str | bytes, trust: Trust | None = None) -> Sealed:
    """Read an envelope strictly. The number of signatures, whose they are and what the document means is for `verify`.

    With `trust`, signatures of known keys are checked before anything is said of the payload's form: an altered
    document is told as altered, whatever else the change made of it.

    Raises `Finding`: envelope_too_large, malformed_envelope, wrong_payload_type, signature_malformed,
    signature_duplicate, signature_invalid, not_canonical, schema_invalid.
    """
    enclosed = read_envelope(text, PAYLOAD_TYPE, trust)
    document = parse_document(enclosed.payload)
    return Sealed(enclosed.payload, document, enclosed.signatures, enclosed.digest, enclosed.text)


def read_envelope(text: str | bytes, payload_type: str, trust: Trust | None = None) -> Enclosed:
    """`open_envelope` without a look at what the document is. Raises `Finding`, likewise."""
    raw = _raw(text)
    members = _members(_json(raw, "malformed_envelope", ""), "", ("payload", "payloadType", "signatures"))
    if members["payloadType"] != payload_type:
        raise Finding("wrong_payload_type", "payloadType", str(members["payloadType"])[:80])
    payload = _base64(members["payload"], "payload")
    signatures = _signatures(members["signatures"])
    if trust is not None:
        _check_known(signatures, signed_bytes(payload, payload_type), trust)
    _require_canonical(members, raw, "")
    tree = _json(payload, "schema_invalid", "payload")
    _require_canonical(tree, payload, "payload")
    return Enclosed(payload, payload_type, signatures, hashlib.sha256(raw).hexdigest(), raw.decode())


def _check_known(signatures: Sequence[Signature], data: bytes, trust: Trust) -> None:
    for place, signature in enumerate(signatures):
        key = trust.keys.get(signature.key_id)
        if key is not None and not signature_is_valid(key.public_key, signature.value, data):
            raise Finding("signature_invalid", f"signatures[{place}].sig", key.party)


def parse_document(payload: bytes) -> LicenceDocument:
    """The document of a payload. Raises `Finding` schema_invalid with the field's path."""
    return parse_payload(payload, LicenceDocument)


def parse_payload(payload: bytes, kind: type[_Document]) -> _Document:
    """A payload as a document of `kind`. Raises `Finding` schema_invalid with the field's path."""
    try:
        return msgspec.json.decode(payload, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        message, _, place = str(error).partition(" - at `$")
        path = place.rstrip("`").removeprefix(".")
        member = _MEMBER.search(message)
        if member is not None:
            path = f"{path}.{member[1]}".removeprefix(".")
        raise Finding("schema_invalid", path, message) from None


def _raw(text: str | bytes) -> bytes:
    try:
        raw = text.encode() if isinstance(text, str) else bytes(text)
    except UnicodeEncodeError:
        raise Finding("malformed_envelope", "", "not UTF-8") from None
    if len(raw) > ENVELOPE_BYTES_MAX:
        raise Finding("envelope_too_large", "", f"{len(raw)} > {ENVELOPE_BYTES_MAX} bytes")
    return raw.removesuffix(b"\n")


def _json(raw: bytes, code: str, path: str) -> Any:
    try:
        return jiter.from_json(raw, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError as error:
        raise Finding(code, path, str(error)[:200]) from None


def _require_canonical(value: Any, raw: bytes, path: str) -> None:
    try:
        same = rfc8785.dumps(value) == raw
    except rfc8785.CanonicalizationError as error:
        raise Finding("not_canonical", path, str(error)[:200]) from None
    if not same:
        raise Finding("not_canonical", path, "differs from its RFC 8785 form")


def _members(value: Any, path: str, names: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Finding("malformed_envelope", path, "not an object")
    if set(value) != set(names):
        raise Finding("malformed_envelope", path, f"its members must be {', '.join(names)}")
    return value


def _base64(value: Any, path: str) -> bytes:
    if not isinstance(value, str):
        raise Finding("malformed_envelope", path, "not a string")
    try:
        decoded = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise Finding("malformed_envelope", path, "not base64") from None
    if base64.b64encode(decoded).decode() != value:
        raise Finding("not_canonical", path, "not the canonical base64 of its bytes")
    return decoded


def _signatures(value: Any) -> tuple[Signature, ...]:
    if not isinstance(value, list):
        raise Finding("malformed_envelope", "signatures", "not a list")
    if len(value) > SIGNATURES_MAX:
        raise Finding("malformed_envelope", "signatures", f"more than {SIGNATURES_MAX}")
    signatures = tuple(_signature(item, f"signatures[{place}]") for place, item in enumerate(value))
    key_ids = [signature.key_id for signature in signatures]
    for place, key_id in enumerate(key_ids):
        if key_id in key_ids[:place]:
            raise Finding("signature_duplicate", f"signatures[{place}]", key_id)
    if key_ids != sorted(key_ids):
        raise Finding("not_canonical", "signatures", "not in the order of their key ids")
    return signatures


def _signature(value: Any, path: str) -> Signature:
    members = _members(value, path, ("keyid", "sig"))
    if not isinstance(members["keyid"], str):
        raise Finding("malformed_envelope", f"{path}.keyid", "not a string")
    signature = _base64(members["sig"], f"{path}.sig")
    if len(signature) != SIGNATURE_BYTES:
        raise Finding("signature_malformed", f"{path}.sig", f"{len(signature)} bytes")
    return Signature(members["keyid"], signature)
