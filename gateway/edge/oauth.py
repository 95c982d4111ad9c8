"""The token endpoint, and the documents that say where it is and which keys sign: `routes` for the data plane.

None of them is authenticated by the gateway's own credentials: two are public, and the token endpoint authenticates its
clients itself.
"""

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import uuid_utils
from authlib.oauth2 import OAuth2Error  # type: ignore[import-untyped]
from authlib.oauth2.rfc6749.errors import InvalidRequestError  # type: ignore[import-untyped]
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.faults import Fault
from gateway.identity.access import SCOPES
from gateway.identity.credentials import Credentials
from gateway.identity.grants import TOKEN_PATH, ClientCredentials, InvalidClient, InvalidProof
from gateway.identity.jose import ALGORITHMS
from gateway.identity.presented import presented_of
from gateway.identity.refusals import too_many
from gateway.identity.service import Identifier

FORM_BYTES_MAX = 16 * 1024
FORM_FIELDS_MAX = 32
FORM_S_MAX = 10.0
JWKS_PATH = "/.well-known/jwks.json"
METADATA_PATH = "/.well-known/oauth-authorization-server"
_FORM_TYPE = "application/x-www-form-urlencoded"


def routes(identifier: Identifier, credentials: Callable[[], Credentials], now: Callable[[], int]) -> list[Route]:
    """The routes of the authorization server; none when the gateway's public URL is not configured.

    `credentials` gives those in force (and may raise `Fault`), `now` the time in microseconds since the epoch.
    """
    grants = identifier.grants
    if not grants.issuer:
        return []

    async def metadata(_: Request) -> Response:
        return _json(_metadata(grants.issuer), 200, {"cache-control": "max-age=3600"})

    async def jwks(_: Request) -> Response:
        return _json(grants.ring(now()).jwks, 200, {"cache-control": "max-age=60"})

    async def token(request: Request) -> Response:
        try:
            return _json(await _granted(request, identifier, credentials(), now()), 200, _UNSTORED)
        except OAuth2Error as error:
            return _refused(error)
        except Fault as fault:
            return _unavailable(fault)

    return [
        Route(TOKEN_PATH, token, methods=["POST"]),
        Route(METADATA_PATH, metadata, methods=["GET"]),
        Route(JWKS_PATH, jwks, methods=["GET"]),
    ]


_UNSTORED = {"cache-control": "no-store", "pragma": "no-cache"}


async def _granted(request: Request, identifier: Identifier, credentials: Credentials, now: int) -> dict[str, Any]:
    presented = presented_of(request.scope, identifier.trusted_proxies)
    if wait_s := identifier.failures.wait_s(presented.address, now):
        raise too_many(wait_s)
    grants: ClientCredentials = identifier.grants
    try:
        return await grants.grant(await _form(request), presented, credentials, now)
    except (InvalidClient, InvalidProof) as error:
        if wait_s := await identifier.failures.count(presented.address, now):
            raise too_many(wait_s) from error
        raise


async def _form(request: Request) -> dict[str, str]:
    """The parameters of the body, each at most once (RFC 6749 §3.2). Raises `OAuth2Error`."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM_TYPE:
        raise InvalidRequestError(f"send the parameters as {_FORM_TYPE}")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise InvalidRequestError("send the body uncompressed")
    try:
        async with asyncio.timeout(FORM_S_MAX):
            body = await _body(request)
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, strict_parsing=bool(body), errors="strict",
            max_num_fields=FORM_FIELDS_MAX,
        )  # fmt: skip
    except (ValueError, TimeoutError, ClientDisconnect):
        raise InvalidRequestError("the body is no form, or did not arrive in time") from None
    form = dict(pairs)
    if len(form) != len(pairs):
        raise InvalidRequestError("a parameter stands twice")
    return {name: value for name, value in form.items() if value}  # without a value it counts as omitted (§3.2)


async def _body(request: Request) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > FORM_BYTES_MAX:
            raise InvalidRequestError(f"the body is larger than {FORM_BYTES_MAX} bytes")
        parts.append(part)
    return b"".join(parts)


def _refused(error: Any) -> Response:
    headers = dict(_UNSTORED)
    if error.status_code == 401:
        headers["www-authenticate"] = f'Bearer realm="sekisho", error="{error.error}"'
    return _json(dict(error.get_body()), error.status_code, headers)


def _unavailable(fault: Fault) -> Response:
    """What is nobody's fault, or said too often: no error of RFC 6749 §5.2 fits, so the catalogue's text is told."""
    headers = dict(_UNSTORED)
    if fault.retry_after_s is not None:
        headers["retry-after"] = str(fault.retry_after_s)
    body = {"error": "temporarily_unavailable", "error_description": f"{fault.code.name}: {fault.text('en')}"}
    return _json(body, fault.code.status, headers)


def _json(document: Any, status: int, headers: dict[str, str]) -> Response:
    headers = {**headers, "x-request-id": str(uuid_utils.uuid7())}
    return Response(msgspec.json.encode(document), status, headers, media_type="application/json")


def _metadata(issuer: str) -> dict[str, Any]:
    """Authorization server metadata (RFC 8414 §2, RFC 8705 §3.3, RFC 9449 §5.1)."""
    return {
        "issuer": issuer,
        "token_endpoint": issuer + TOKEN_PATH,
        "jwks_uri": issuer + JWKS_PATH,
        "scopes_supported": sorted(SCOPES),
        "response_types_supported": [],
        "grant_types_supported": ["client_credentials"],
        "token_endpoint_auth_methods_supported": ["private_key_jwt"],
        "token_endpoint_auth_signing_alg_values_supported": list(ALGORITHMS),
        "dpop_signing_alg_values_supported": list(ALGORITHMS),
        "tls_client_certificate_bound_access_tokens": True,
    }
