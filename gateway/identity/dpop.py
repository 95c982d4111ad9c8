"""DPoP proofs (RFC 9449): that the sender of a request holds the private key to which its token is bound.

A proof is a JWT with its own public key in the header. It fits one method, URL, token and minute, and is taken once.
"""

import base64
import hashlib
import re
from urllib.parse import urlsplit

import msgspec

from gateway.identity.jose import Rejected, Seconds, peek, signer, verifying_key

TYPE = "dpop+jwt"
# An honest proof is as old as its way here; 60 s on either side cover clocks that differ (RFC 9449 §11.1).
AGE_S_MAX = 60
# From the earliest moment at which a proof is taken to the last, and a second for rounding.
REPLAY_S = 2 * AGE_S_MAX + 1
JTI_CHARS_MAX = 256
_PORTS = {"http": 80, "https": 443}
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")
_PERCENT = re.compile(r"%([0-9A-Fa-f]{2})")


class Proof(msgspec.Struct, frozen=True):
    """The claims of a proof (RFC 9449 §4.2)."""

    jti: str
    htm: str
    htu: str
    iat: Seconds
    ath: str | None = None


def digest(text: str) -> str:
    """SHA-256 of ASCII `text` in unpadded base64url: the claim `ath` of a token."""
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode("ascii")).digest()).rstrip(b"=").decode()


def read_proof(text: str, method: str, url: str, now_s: float, token: str | None) -> tuple[str, str]:
    """The thumbprint of the proof's key (RFC 7638) and its `jti`. `now_s` in seconds since the epoch.

    All checks of RFC 9449 §4.3 but the nonce, which this server never asks for; that the proof is new and its key the
    right one is for the caller to check. Raises `Rejected`.
    """
    header, proof = peek(text, Proof)
    if header.typ.lower() != TYPE or header.jwk is None:
        raise Rejected("not a DPoP proof")
    if proof.htm != method:
        raise Rejected("the proof is for another method")
    if normal_url(proof.htu) is None or normal_url(proof.htu) != normal_url(url):
        raise Rejected("the proof is for another URL")
    if abs(now_s - proof.iat) > AGE_S_MAX:
        raise Rejected("the proof is too old, or from the future")
    if not 0 < len(proof.jti) <= JTI_CHARS_MAX:
        raise Rejected("the proof has no usable jti")
    if token is not None and proof.ath != digest(token):
        raise Rejected("the proof is for another token")
    key = verifying_key(header.jwk)
    if not key.admits(header.alg):
        raise Rejected("the proof's key does not fit its algorithm")
    return signer(text, [key]).thumbprint, proof.jti


def normal_url(url: str) -> str | None:
    """`url` without query and fragment, normalised (RFC 3986 §6.2.2 and §6.2.3); None when it is no HTTP URL."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    host = parts.hostname
    if parts.scheme not in _PORTS or not host or parts.username is not None:
        return None
    shown = f"[{host}]" if ":" in host else host
    suffix = "" if port in (None, _PORTS[parts.scheme]) else f":{port}"
    return f"{parts.scheme}://{shown}{suffix}{_PERCENT.sub(_normal_escape, parts.path) or '/'}"


def origin_of(url: str) -> str | None:
    """Scheme, host and port of `url`, normalised."""
    normal = normal_url(url)
    return None if normal is None else "/".join(normal.split("/", 3)[:3])


def _normal_escape(found: re.Match[str]) -> str:
    character = chr(int(found[1], 16))
    return character if _UNRESERVED.fullmatch(character) else found[0].upper()
