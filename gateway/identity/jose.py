"""Signed JWTs (RFC 7515, 7519) read strictly: three parts, an asymmetric algorithm of a short list, no `crit`, bounded.

The algorithm is one that the key's type admits, whatever the header says; `none` and HMAC are not on the list, so a
public key can never be taken for a secret. Signatures are joserfc's; sizes, claims and keys are checked here.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from joserfc import jwk, jws
from joserfc.errors import JoseError
from joserfc.util import urlsafe_b64decode

ALGORITHMS: tuple[str, ...] = ("Ed25519", "ES256", "PS256", "RS256")
_KEY_TYPES = {"Ed25519": "OKP", "ES256": "EC", "PS256": "RSA", "RS256": "RSA"}
_CURVES = {"Ed25519": "Ed25519", "ES256": "P-256"}
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
JWT_CHARS_MAX = 16 * 1024
HEADER_CHARS_MAX = 4_096
KEYS_MAX = 64
CANDIDATES_MAX = 4
RSA_BITS = range(2_048, 4_096 + 1)
RSA_EXPONENT_MAX = 2**32

# NumericDate (RFC 7519 §2): finite, and small enough to compare without surprises.
Seconds = Annotated[float, msgspec.Meta(ge=0, le=2**53)]

_T = TypeVar("_T")


class _Registry(jws.JWSRegistry):
    max_header_length = HEADER_CHARS_MAX
    max_payload_length = JWT_CHARS_MAX


_REGISTRY = _Registry(algorithms=ALGORITHMS, strict_check_header=False)
# What libraries raise on hostile input, besides their own errors.
_HOSTILE = (JoseError, ValueError, TypeError, KeyError, AttributeError, RecursionError, UnsupportedAlgorithm)


class Rejected(Exception):
    """The text is no JWT that may be believed; the message says why, for the operator."""


class Header(msgspec.Struct, frozen=True):
    """The header parameters (RFC 7515 §4.1) that matter here."""

    alg: str
    typ: str = ""
    kid: str | None = None
    jwk: dict[str, Any] | None = None
    crit: Any = None


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A public key; `thumbprint` is RFC 7638 with SHA-256, `alg` the one algorithm it names, if it does."""

    kid: str | None
    alg: str | None
    thumbprint: str
    key: jwk.RSAKey | jwk.ECKey | jwk.OKPKey

    def admits(self, alg: str) -> bool:
        """Whether a signature with `alg` may be checked with this key."""
        curve = self.key.get("crv")
        return self.alg in (None, alg) and _KEY_TYPES[alg] == self.key.key_type and _CURVES.get(alg) == curve


def verifying_key(value: Mapping[str, Any]) -> VerifyingKey:
    """The public signature key of a JWK (RFC 7517). Raises `Rejected` for private, symmetric, weak or other keys."""
    if _PRIVATE & value.keys():
        raise Rejected("the JWK is not a public key")
    try:
        key = jwk.import_key(dict(value))
        thumbprint = key.thumbprint()
        key.check_use("sig")
        key.check_key_op("verify")
        public = key.public_key
    except _HOSTILE as error:
        raise Rejected(f"the JWK is not usable: {type(error).__name__}") from None
    if isinstance(key, jwk.OctKey):
        raise Rejected("the JWK is symmetric")
    if isinstance(public, RSAPublicKey) and (
        public.key_size not in RSA_BITS or public.public_numbers().e > RSA_EXPONENT_MAX
    ):
        raise Rejected("the RSA key is too short or too long")
    found = VerifyingKey(key.kid, key.alg, thumbprint, key)
    if not any(found.admits(alg) for alg in ALGORITHMS):
        raise Rejected("the JWK fits none of the algorithms")
    return found


def verifying_keys(jwks: Any) -> tuple[VerifyingKey, ...]:
    """The usable keys of a JWK set (RFC 7517 §5), at most 64; the others are passed over, as the RFC wants."""
    values = jwks.get("keys") if isinstance(jwks, Mapping) else None
    keys = []
    for value in values[:KEYS_MAX] if isinstance(values, list) else ():
        try:
            keys.append(verifying_key(value))
        except (Rejected, AttributeError):
            continue
    return tuple(keys)


def peek(text: str, claims: type[_T]) -> tuple[Header, _T]:
    """Header and claims of `text`, neither of them verified. Raises `Rejected`."""
    if len(text) > JWT_CHARS_MAX or not text.isascii():
        raise Rejected("the JWT is too long, or no ASCII")
    parts = text.encode("ascii").split(b".")
    if len(parts) != 3 or len(parts[0]) > HEADER_CHARS_MAX:
        raise Rejected("a JWT has three parts")
    try:
        header = msgspec.json.decode(urlsafe_b64decode(parts[0]), type=Header)
        payload = msgspec.json.decode(urlsafe_b64decode(parts[1]), type=claims)
    except (ValueError, RecursionError, IndexError) as error:
        raise Rejected(f"the JWT cannot be read: {type(error).__name__}") from None
    if header.alg not in ALGORITHMS:
        raise Rejected("the JWT is not signed with an admitted algorithm")
    if header.crit is not None:
        raise Rejected("the JWT names critical extensions")
    return header, payload


def candidates(keys: Iterable[VerifyingKey], header: Header) -> tuple[VerifyingKey, ...]:
    """The keys that may have signed a JWT with `header`: those of its `kid`; without one, the only one that fits."""
    fitting = [key for key in keys if key.admits(header.alg)]
    if header.kid is None:
        return tuple(fitting) if len(fitting) == 1 else ()
    return tuple(key for key in fitting if key.kid == header.kid)[:CANDIDATES_MAX]


def signer(text: str, keys: Collection[VerifyingKey]) -> VerifyingKey:
    """The one of `keys` that signed `text`. Raises `Rejected`."""
    for key in keys:
        try:
            jws.deserialize_compact(text.encode("ascii"), key.key, registry=_REGISTRY)
        except _HOSTILE:
            continue
        return key
    raise Rejected("no key of the signer verifies the JWT")
