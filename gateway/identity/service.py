"""Turns what a request presents into a principal, or refuses it without saying more than the caller may know.

Identifier.identify     who asks: an API key without waiting for anything, a token with its binding
Identifier.still_valid  whether a principal's credential is in force; asked again while its request runs
Identifier.uses         which credentials were used, and when
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from gateway.faults import Fault
from gateway.identity.access import Access, Principal, ended
from gateway.identity.addresses import inside, parse_address
from gateway.identity.binding import Bindings
from gateway.identity.credentials import ApiKey, Credentials, OAuthClient, OidcIssuer, Presented
from gateway.identity.grants import ClientCredentials
from gateway.identity.issuers import IssuerKeys
from gateway.identity.keys import Pepper, key_id_of, matches
from gateway.identity.presented import presented_of
from gateway.identity.refusals import refusal, too_many
from gateway.identity.secrets import load_peppers
from gateway.identity.shared import FailedAttempts, SingleUse
from gateway.identity.token_keys import TokenKeys
from gateway.identity.tokens import Token, Tokens
from gateway.limits.scripts import Scripts
from gateway.settings import Settings

__all__ = ["ApiKey", "Credentials", "Identifier", "OAuthClient", "OidcIssuer", "Presented", "presented_of"]

# Failures of one who may be guessing. A key that its holder lost the use of, and a request without any, are none.
COUNTED = frozenset({
    "invalid_api_key", "address_not_allowed", "invalid_token", "token_expired", "token_not_yet_valid",
    "token_not_bound", "certificate_mismatch", "dpop_proof_invalid", "dpop_proof_replayed",
})  # fmt: skip
_AUTHORIZATION = re.compile(r"(bearer|dpop) +([^\s]+) *", re.IGNORECASE | re.ASCII)


class Identifier:
    """Identifies the requests of one process. Must be closed in the event loop that used it."""

    def __init__(self, settings: Settings) -> None:
        identity = settings.identity
        issuer = identity.public_urls[0] if identity.public_urls else ""
        self.trusted_proxies = identity.trusted_proxies
        self._peppers = load_peppers(settings.data_dir).by_id
        self._scripts = Scripts(settings.valkey_url)
        self.failures = FailedAttempts(self._scripts, identity.failures_per_minute)
        token_keys, single_use = TokenKeys(settings.data_dir), SingleUse(self._scripts)
        self._issuers = IssuerKeys(identity.issuer_networks)
        self._tokens = Tokens(issuer, token_keys, self._issuers)
        self._bindings = Bindings(identity.public_urls, single_use)
        self.grants = ClientCredentials(issuer, token_keys, single_use, self._bindings)
        self._used: dict[str, int] = {}

    async def identify(self, presented: Presented, credentials: Credentials, now: int) -> Principal:
        """The principal. `now` in microseconds since the epoch. An API key in force is identified without a wait.

        Raises `Fault`: 401 with a code of the catalogue, 429 `too_many_failed_attempts`, or 503 `store_unavailable`
        or `issuer_unavailable` where a token cannot be judged.
        """
        try:
            principal = await self._principal(presented, credentials, now)
        except Fault as fault:
            if fault.code.name in COUNTED and (wait_s := await self.failures.count(presented.address, now)):
                raise too_many(wait_s) from fault
            raise
        self._used[principal.access.credential_id] = now
        return principal

    async def _principal(self, presented: Presented, credentials: Credentials, now: int) -> Principal:
        found = _AUTHORIZATION.fullmatch(presented.authorization or "")
        if found is None:
            raise refusal("missing_api_key")
        scheme, text = found[1].lower(), found[2]
        if text.count(".") == 2:
            return await self._bearer_of_token(scheme, text, presented, credentials, now)
        access = key_access(text if scheme == "bearer" else "", credentials.keys, self._peppers)
        check_in_force(access, "key", presented.address, now)
        return Principal(access, expires_at=access.expires_at)

    async def _bearer_of_token(
        self, scheme: str, text: str, presented: Presented, credentials: Credentials, now: int
    ) -> Principal:
        token = self._tokens.known(text, now)
        if token is None:
            if wait_s := self.failures.wait_s(presented.address, now):
                raise too_many(wait_s)  # before the costly part
            token = await self._tokens.verify(text, credentials, now)
        source = _source(token, credentials)
        check_in_force(source.access, "credential", presented.address, now)
        await self._bindings.check(scheme, text, token, source.binding, presented, now)
        ends = [end for end in (source.access.expires_at, token.ends_at) if end is not None]
        return Principal(narrowed(source.access, token.purposes), token.scopes, min(ends), token.subject)

    def confirm(self, principal: Principal, presented: Presented, credentials: Credentials, now: int) -> Principal:
        """The principal by `credentials` that may be newer than those it was identified by: what its credential may do
        now. Raises `Fault` like `identify`; costs no signature."""
        access = credentials.access_of(principal.access)
        kind = "key" if principal.access.kind == "key" else "credential"
        if access is None or access.tenant_id != principal.tenant_id:
            raise refusal(f"{kind}_revoked")
        check_in_force(access, kind, presented.address, now)
        if access is principal.access:
            return principal
        return replace(principal, access=narrowed(access, principal.access.purposes))

    def still_valid(self, principal: Principal, credentials: Credentials, now: int) -> bool:
        """Whether the principal's credential is in force. A token's own end does not end what it began."""
        access = credentials.access_of(principal.access)
        if access is None or access.tenant_id != principal.tenant_id:
            return False
        return not ended(access.revoked_at, access.expires_at, now)

    def uses(self) -> dict[str, int]:
        """When each credential was last used since the last call (microseconds since the epoch)."""
        used, self._used = self._used, {}
        return used

    async def close(self) -> None:
        """Finish what is under way, then close the connections."""
        await self._issuers.close()
        await self._scripts.close()


def key_access(text: str, keys: Mapping[str, ApiKey], peppers: Mapping[str, Pepper]) -> Access:
    """What the holder of the key `text` may ask for. Raises `Fault("invalid_api_key")`."""
    key_id = key_id_of(text)
    key = None if key_id is None else keys.get(key_id)
    if key_id is None or not matches(text, key, peppers) or key is None:
        raise refusal("invalid_api_key")
    return key.access


def check_in_force(access: Access, prefix: str, address: str, now: int) -> None:
    """Raises `Fault` with `<prefix>_revoked`, `<prefix>_expired` or `address_not_allowed`; told only to one who has
    proved to hold the credential."""
    why = ended(access.revoked_at, access.expires_at, now)
    if why:
        raise refusal(f"{prefix}_{why}")
    if access.networks is not None and not inside(parse_address(address), access.networks):
        raise refusal("address_not_allowed")


def _source(token: Token, credentials: Credentials) -> OAuthClient | OidcIssuer:
    """The client or issuer that a verified token speaks for, as it is now."""
    if token.kind == "client":
        client = credentials.clients.get(token.source)
        if client is not None:
            return client
    else:
        issuer = credentials.issuers.get(token.source)
        if issuer is not None and issuer.audience in token.audience:
            return issuer
    raise refusal("invalid_token", "its client is gone, or it is meant for another audience")


def narrowed(access: Access, purposes: frozenset[str] | None) -> Access:
    """`access` with no more than the `purposes` of a token; with a single one, that is its requests' default."""
    if purposes is None:
        return access
    left = purposes if access.purposes is None else access.purposes & purposes
    default = access.purpose if access.purpose in left or len(left) != 1 else next(iter(left))
    return replace(access, purposes=left, purpose=default)
