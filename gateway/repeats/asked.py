"""The `Idempotency-Key` of a request (draft-ietf-httpapi-idempotency-key-header), and what is asked under it."""

import hashlib
import re
from typing import Any

import msgspec

from gateway.faults import Fault

HEADER = b"idempotency-key"
PARAM = "Idempotency-Key"
KEY_CHARS_MAX = 255
_PRINTABLE = re.compile(r"[ -~]+", re.ASCII)
# A string of structured fields (RFC 9651 §3.3.3), as the draft writes the header.
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"', re.ASCII)
_ESCAPED = re.compile(r'\\(["\\])')


def key_of(values: list[str]) -> str:
    """The key that the header's `values` state: 1 to 255 printable ASCII characters. A quoted string means the text
    between the quotes, so that a client may write the header either way. Raises `Fault("invalid_value")`."""
    if len(values) != 1:  # whichever of two were taken, another reader would take the other
        raise Fault("invalid_value", param=PARAM, detail="state it once")
    text = values[0].strip(" \t")
    if text.startswith('"'):
        quoted = _QUOTED.fullmatch(text)
        text = "" if quoted is None else _ESCAPED.sub(r"\1", quoted[1])
    if not len(text) <= KEY_CHARS_MAX or _PRINTABLE.fullmatch(text) is None:
        raise Fault("invalid_value", param=PARAM, detail=f"1 to {KEY_CHARS_MAX} printable ASCII characters")
    return text


def hash_of(tenant_id: str, key: str) -> bytes:
    """The name under which a tenant's key is stored. The key itself is not: clients put order numbers into it."""
    return hashlib.sha256(f"{tenant_id}\0{key}".encode("ascii")).digest()


def canonical(path: str, purpose: str, data_class: str, tree: dict[str, Any]) -> bytes:
    """What makes two requests the same request: route, purpose, data class and body. Of the body its values count, not
    how they were written: order of members and white space do not, `1` and `1.0` are different."""
    return msgspec.json.encode([path, purpose, data_class, tree], order="sorted")
