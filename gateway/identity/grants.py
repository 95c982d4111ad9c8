"""The client credentials grant (RFC 6749 §4.4) for clients that prove themselves with a signed assertion (RFC 7523).

A client holds a private key and sends `private_key_jwt`; it gets an access token (RFC 9068) of ten minutes, bound to
the key of its DPoP proof (RFC 9449 §5) or to its certificate (RFC 8705 §3) where it wants or must. Errors are those of
RFC 6749 §5.2, whose descriptions are ASCII by that rule.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
import uuid_utils
from authlib.oauth2 import OAuth2Error  # type: ignore[import-untyped]
from authlib.oauth2.rfc6749.errors import (  # type: ignore[import-untyped]
    InvalidRequestError,
    InvalidScopeError,
    UnsupportedGrantTypeError,
)
from authlib.oauth2.rfc7523.client import ASSERTION_TYPE  # type: ignore[import-untyped]
from joserfc import jws

from gateway.faults import Fault
from gateway.identity.access import SCOPES, Access, ended
from gateway.identity.addresses import inside, parse_address
from gateway.identity.binding import Bindings, certificate_thumbprint
from gateway.identity.credentials import Credentials, OAuthClient, Presented
from gateway.identity.dpop import JTI_CHARS_MAX
from gateway.identity.jose import Rejected, Seconds, candidates, peek, signer, verifying_keys
from gateway.identity.shared import SingleUse
from gateway.identity.token_keys import ALGORITHM, KeyRing, TokenKeys
from gateway.identity.tokens import FOREIGN_SKEW_S, TYPE, check_times

TOKEN_PATH = "/oauth/token"  # noqa: S105 # a path
TOKEN_S = 10 * 60
ASSERTION_S_MAX = 5 * 60
_ASSERTION_TYPES = frozenset({"", "jwt", "client-authentication+jwt"})
_SECOND_US = 1_000_000
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+)*", re.ASCII)


class InvalidClient(OAuth2Error):  # type: ignore[misc]
    """The client did not prove who it is, or may not ask (RFC 6749 §5.2)."""

    error = "invalid_client"
    status_code = 401


class InvalidProof(OAuth2Error):  # type: ignore[misc]
    """The DPoP proof is missing or wrong (RFC 9449 §5)."""

    error = "invalid_dpop_proof"


class InvalidTarget(OAuth2Error):  # type: ignore[misc]
    """The token is wanted for another resource (RFC 8707 §2)."""

    error = "invalid_target"


class Assertion(msgspec.Struct, frozen=True):
    """The claims of a client's assertion (RFC 7523 §3); times in seconds since the epoch."""

    iss: str
    sub: str
    aud: str | list[str]
    exp: Seconds
    jti: str
    nbf: Seconds = 0
    iat: Seconds = 0


class ClientCredentials:
    """Issues access tokens to clients, as the issuer `issuer` (an origin; '' issues none)."""

    def __init__(self, issuer: str, keys: TokenKeys, single_use: SingleUse, bindings: Bindings) -> None:
        self.issuer = issuer
        self._keys = keys
        self._single_use = single_use
        self._bindings = bindings

    def ring(self, now: int) -> KeyRing:
        """The keys that tokens are signed with."""
        return self._keys.ring(now)

    async def grant(
        self, form: Mapping[str, str], presented: Presented, credentials: Credentials, now: int
    ) -> dict[str, Any]:
        """The token response (RFC 6749 §5.1) to a request with the parameters `form`. `now` in µs since the epoch.

        Raises `OAuth2Error`, or `Fault("store_unavailable")`.
        """
        if form.get("grant_type") != "client_credentials":
            if "grant_type" not in form:
                raise InvalidRequestError("grant_type is missing")
            raise UnsupportedGrantTypeError(None)
        client = await self._authenticated(form, presented, credentials, now)
        resource = form.get("resource", self.issuer)
        if resource != self.issuer and not resource.startswith(f"{self.issuer}/"):
            raise InvalidTarget("tokens are issued for this gateway only")
        scopes = _granted_scopes(form.get("scope"), client.access)
        confirmation = await self._confirmation(client, presented, now)
        return self._response(client.access, scopes, confirmation, now)

    async def _authenticated(
        self, form: Mapping[str, str], presented: Presented, credentials: Credentials, now: int
    ) -> OAuthClient:
        if form.get("client_assertion_type") != ASSERTION_TYPE or "client_assertion" not in form:
            raise InvalidClient("the client authenticates with private_key_jwt (RFC 7523)")
        try:
            client, assertion = self._read(form["client_assertion"], credentials, now)
        except (Rejected, Fault):
            raise InvalidClient("the client assertion is not valid") from None
        if form.get("client_id", assertion.sub) != assertion.sub:
            raise InvalidClient("client_id is not the subject of the assertion")
        _check_client(client.access, presented.address, now)
        seconds = int(assertion.exp - now / _SECOND_US) + FOREIGN_SKEW_S + 1
        if not await self._single_use.first("assertion", assertion.sub, assertion.jti, seconds):
            raise InvalidClient("the client assertion was used before")
        return client

    def _read(self, text: str, credentials: Credentials, now: int) -> tuple[OAuthClient, Assertion]:
        header, assertion = peek(text, Assertion)
        client = credentials.clients.get(assertion.sub)
        audience = [assertion.aud] if isinstance(assertion.aud, str) else assertion.aud
        if client is None or assertion.iss != assertion.sub:
            raise Rejected("no such client")
        if header.typ.lower() not in _ASSERTION_TYPES:
            raise Rejected("not an assertion")
        if len(audience) != 1 or audience[0] not in (self.issuer, self.issuer + TOKEN_PATH):
            raise Rejected("meant for another server, or not for this one alone")
        check_times(assertion.exp, max(assertion.nbf, assertion.iat), FOREIGN_SKEW_S, now)
        if assertion.exp > now / _SECOND_US + ASSERTION_S_MAX + FOREIGN_SKEW_S:
            raise Rejected("valid for too long")
        if not 0 < len(assertion.jti) <= JTI_CHARS_MAX:
            raise Rejected("no usable jti")
        signer(text, candidates(verifying_keys(client.jwks), header))
        return client, assertion

    async def _confirmation(self, client: OAuthClient, presented: Presented, now: int) -> dict[str, str]:
        """The claim `cnf`; empty for a token that whoever holds it may use."""
        cnf = {}
        if client.binding == "mtls":
            if presented.certificate is None:
                raise InvalidRequestError("the client must connect with its certificate (RFC 8705)")
            cnf["x5t#S256"] = certificate_thumbprint(presented.certificate)
        if client.binding == "dpop" or presented.dpop is not None:
            try:
                jkt = await self._bindings.prove(presented, None, now)
            except Rejected:
                raise InvalidProof("the DPoP proof is missing or does not fit") from None
            if jkt is None:
                raise InvalidProof("the DPoP proof was used before")
            cnf["jkt"] = jkt
        return cnf

    def _response(
        self, access: Access, scopes: frozenset[str], confirmation: dict[str, str], now: int
    ) -> dict[str, Any]:
        now_s = now // _SECOND_US
        seconds = TOKEN_S if access.expires_at is None else min(TOKEN_S, access.expires_at // _SECOND_US - now_s)
        scope = " ".join(sorted(scopes))
        claims: dict[str, Any] = {
            "iss": self.issuer, "aud": self.issuer, "sub": access.credential_id, "client_id": access.credential_id,
            "iat": now_s, "exp": now_s + seconds, "jti": str(uuid_utils.uuid7()), "scope": scope,
        }  # fmt: skip
        if confirmation:
            claims["cnf"] = confirmation
        key = self._keys.ring(now).current
        header = {"alg": ALGORITHM, "typ": TYPE, "kid": key.thumbprint()}
        return {
            "access_token": jws.serialize_compact(header, msgspec.json.encode(claims), key, algorithms=[ALGORITHM]),
            "token_type": "DPoP" if "jkt" in confirmation else "Bearer",
            "expires_in": seconds,
            "scope": scope,
        }


def _check_client(access: Access, address: str, now: int) -> None:
    why = ended(access.revoked_at, access.expires_at, now)
    if why:
        raise InvalidClient(f"the client is {why}")
    if access.networks is not None and not inside(parse_address(address), access.networks):
        raise InvalidClient("the client may not ask from this address")


def _granted_scopes(asked: str | None, access: Access) -> frozenset[str]:
    """The scopes asked for, all of the client's when none are (RFC 6749 §3.3)."""
    own = SCOPES if access.scopes is None else access.scopes & SCOPES
    if asked is None:
        return own
    if not _SCOPE.fullmatch(asked) or not own.issuperset(asked.split(" ")):
        raise InvalidScopeError("a scope is unknown, malformed or not the client's")
    return frozenset(asked.split(" "))
