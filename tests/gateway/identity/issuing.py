"""Clients at the token endpoint."""

from typing import Any
from uuid import uuid4

from authlib.oauth2.rfc7523.client import ASSERTION_TYPE  # type: ignore[import-untyped]
from joserfc.jwk import Key

from gateway.identity.credentials import OAuthClient, Presented
from gateway.identity.grants import TOKEN_PATH
from gateway.identity.service import Identifier
from tests.gateway.identity.making import BASE, NOW, NOW_S, Holder, an_address, credentials_of, signed

TOKEN_URL = BASE + TOKEN_PATH


def assertion_of(client: OAuthClient, key: Key, alg: str = "ES256", header: Any = None, **claims: Any) -> str:
    """A client's assertion for the token endpoint, good for a minute; None leaves a claim out."""
    client_id = client.access.credential_id
    said = {"iss": client_id, "sub": client_id, "aud": TOKEN_URL, "exp": NOW_S + 60, "jti": uuid4().hex, **claims}
    return signed(key, alg, {name: value for name, value in said.items() if value is not None}, **(header or {}))


def form_of(assertion: str, **parameters: str) -> dict[str, str]:
    """The parameters of a token request."""
    return {
        "grant_type": "client_credentials", "client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion,
        **parameters,
    }  # fmt: skip


def asking(holder: Holder | None = None, **fields: Any) -> Presented:
    """A request to the token endpoint, with a proof of `holder`."""
    proof = None if holder is None else holder.proof(None, htu=TOKEN_URL)
    return Presented(None, proof, **{"method": "POST", "url": TOKEN_URL, "address": an_address(), **fields})


async def token_for(
    identifier: Identifier, client: OAuthClient, key: Key, holder: Holder | None = None, **fields: Any
) -> str:
    """An access token of `client`, whose (ES256) key is `key`, bound to `holder`; `fields` are the request's."""
    form = form_of(assertion_of(client, key))
    answer = await identifier.grants.grant(form, asking(holder, **fields), credentials_of(client), NOW)
    return str(answer["access_token"])
