"""Access tokens: JWTs that this gateway signed for a client (RFC 9068), or that a tenant's own issuer signed.

Whose token it is, is decided by `iss` alone, and only keys of that issuer are tried. What held once is remembered until
it ends, so that a token that comes again costs a hash; its key must still be in force, and whether its client or issuer
is, the caller looks up each time.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from gateway.identity.credentials import Credentials
from gateway.identity.issuers import IssuerKeys
from gateway.identity.jose import Header, Rejected, Seconds, VerifyingKey, candidates, peek, signer
from gateway.identity.refusals import refusal
from gateway.identity.token_keys import TokenKeys

TYPE = "at+jwt"
# RFC 9068 names the first; many issuers still say only JWT, or nothing. Other types are other kinds of statement.
_FOREIGN_TYPES = frozenset({TYPE, f"application/{TYPE}", "jwt", ""})
OWN_SKEW_S = 5
FOREIGN_SKEW_S = 60
TOKENS_MAX = 10_000
_SECOND_US = 1_000_000


class Claims(msgspec.Struct, frozen=True):
    """The claims (RFC 7519, 9068, 7800) that matter here; times in seconds since the epoch."""

    iss: str
    exp: Seconds
    aud: str | list[str]
    nbf: Seconds = 0
    iat: Seconds = 0
    sub: str = ""
    client_id: str = ""
    scope: str | list[str] | None = None
    purpose: str | list[str] | None = None
    cnf: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """A token whose signature and times held. `source` is the client id or the issuer's URL; `jkt` and `x5t` are the
    thumbprints of key (RFC 9449) and certificate (RFC 8705) that it is bound to. `ends_at` in µs since the epoch."""

    kind: Literal["client", "issuer"]
    source: str
    key: str
    audience: frozenset[str]
    ends_at: int
    subject: str
    scopes: frozenset[str] | None
    purposes: frozenset[str] | None
    jkt: str | None
    x5t: str | None


class Tokens:
    """Verifies tokens, and remembers the last 10,000 that held."""

    def __init__(self, issuer: str, own: TokenKeys, foreign: IssuerKeys) -> None:
        self._issuer = issuer
        self._own = own
        self._foreign = foreign
        self._known: OrderedDict[bytes, Token] = OrderedDict()

    def known(self, text: str, now: int) -> Token | None:
        """What `text` is known to say, if its time and its key allow to say so without a check."""
        name = _name(text)
        token = self._known.get(name)
        if token is None:
            return None
        if token.kind == "client":
            current = self._own.find(token.key, now) is not None
        else:
            current = self._foreign.holds(token.source, token.key, now)
        if token.ends_at <= now or not current:
            del self._known[name]
            return None
        self._known.move_to_end(name)
        return token

    async def verify(self, text: str, credentials: Credentials, now: int) -> Token:
        """What `text` says. `now` in µs since the epoch. Raises `Fault` with `invalid_token`, `token_expired`,
        `token_not_yet_valid` or `issuer_unavailable`."""
        try:
            header, claims = peek(text, Claims)
            own = claims.iss == self._issuer != ""
            if not own and claims.iss not in credentials.issuers:
                raise Rejected("the issuer is not known")
            skew_s = OWN_SKEW_S if own else FOREIGN_SKEW_S
            check_times(claims.exp, max(claims.nbf, claims.iat), skew_s, now)
            key = signer(text, await self._keys(header, claims, own, now))
            token = _token(claims, own, key, skew_s)
        except Rejected as rejected:
            raise refusal("invalid_token", str(rejected)) from None
        self._known[_name(text)] = token
        if len(self._known) > TOKENS_MAX:
            self._known.popitem(last=False)
        return token

    async def _keys(self, header: Header, claims: Claims, own: bool, now: int) -> tuple[VerifyingKey, ...]:
        typ = header.typ.lower()
        if own:
            if typ != TYPE or claims.aud != self._issuer:
                raise Rejected("not an access token for this gateway")
            key = self._own.find(header.kid, now)
            return () if key is None else candidates([key], header)
        if typ not in _FOREIGN_TYPES:
            raise Rejected("not an access token")
        return await self._foreign.candidates(claims.iss, header, now)


def check_times(exp: float, begins: float, skew_s: float, now: int) -> None:
    """Raises `Fault` with `token_expired` or `token_not_yet_valid`. Claims in seconds, `now` in µs since the epoch."""
    now_s = now / _SECOND_US
    if now_s >= exp + skew_s:
        raise refusal("token_expired")
    if now_s < begins - skew_s:
        raise refusal("token_not_yet_valid")


def _name(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _token(claims: Claims, own: bool, key: VerifyingKey, skew_s: int) -> Token:
    jkt, x5t = _confirmation(claims.cnf)
    return Token(
        kind="client" if own else "issuer",
        source=claims.client_id if own else claims.iss,
        key=key.thumbprint,
        audience=frozenset([claims.aud] if isinstance(claims.aud, str) else claims.aud),
        ends_at=int((claims.exp + skew_s) * _SECOND_US),
        subject=claims.sub,
        scopes=_words(claims.scope),
        purposes=_words(claims.purpose),
        jkt=jkt,
        x5t=x5t,
    )


def _words(claim: str | list[str] | None) -> frozenset[str] | None:
    if claim is None:
        return None
    return frozenset(claim.split() if isinstance(claim, str) else claim)


def _confirmation(cnf: dict[str, Any] | None) -> tuple[str | None, str | None]:
    """`jkt` and `x5t#S256` of the claim `cnf` (RFC 7800). A binding that cannot be checked is no reason to believe."""
    if cnf is None:
        return None, None
    jkt, x5t = cnf.get("jkt"), cnf.get("x5t#S256")
    if not cnf.keys() <= {"jkt", "x5t#S256"} or not cnf:
        raise Rejected("the token is bound in an unknown way")
    if not all(value is None or isinstance(value, str) for value in (jkt, x5t)) or (jkt is None and x5t is None):
        raise Rejected("the token's binding cannot be read")
    return jkt, x5t
