"""The admin plane as an ASGI application. It is served on a port of its own and shares nothing with the data plane but
the book."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from billing.exports.refused import ExportRefused
from billing.invoices.refused import InvoiceRefused
from billing.prices import BadTerms
from gateway.control import (
    admin_keys,
    agreements,
    billing_issuers,
    clients,
    code,
    invoices,
    keys,
    licences,
    limits,
    lineages,
    priority,
    rate_cards,
    reading,
    simulation,
    tenants,
    trust,
    upstreams,
    usage,
    webhooks,
)
from gateway.control.billing_refusals import BillingRefusal, fault_of
from gateway.control.door import Door, language_in, rendered
from gateway.control.plane import Plane, pool_of
from gateway.control.refusals import Problems, Refusal, first_invalid
from gateway.control.route import AdminRoute
from gateway.faults import Fault
from gateway.identity.secrets import load_peppers
from gateway.identity.service import Identifier
from gateway.identity.settings import Networks
from gateway.identity.shared import FailedAttempts
from gateway.licensing.findings import Finding
from gateway.settings import Settings
from gateway.tenancy.keystore import KeyFiles
from gateway.tenancy.standing import LimitView

PREFIX = "/admin/v1"
_PARTS = (
    tenants, limits, keys, clients, simulation, licences, trust, upstreams, webhooks, rate_cards, agreements,
    lineages, priority, billing_issuers, invoices, admin_keys, code, usage, reading,
)  # fmt: skip


@asynccontextmanager
async def admin_plane(settings: Settings, identifier: Identifier, view: LimitView) -> AsyncIterator[ASGIApp]:
    """The admin plane on `settings`' book, with a pool of its own while the block runs. Failed attempts are counted
    together with those on the data plane."""
    async with pool_of(settings.database_url) as pool:
        plane = Plane(pool, load_peppers(settings.data_dir), KeyFiles(settings.data_dir), view)
        yield admin_app(plane, identifier.failures, settings.identity.trusted_proxies)


def admin_app(plane: Plane, attempts: FailedAttempts, trusted: Networks = ()) -> ASGIApp:
    """The application. `trusted` are the networks of proxies that may tell a client's address."""
    return Door(inner_app(plane), plane, attempts, trusted)


def inner_app(plane: Plane) -> FastAPI:
    """What lies behind the door: every route with its permission."""
    app = FastAPI(
        title="Sekisho admin plane", version="1", docs_url=None, redoc_url=None, openapi_url=None,
        redirect_slashes=False,
        exception_handlers={
            Fault: _refused, Finding: _refused, Problems: _refused, RequestValidationError: _unreadable,
            InvoiceRefused: _billing_refused, ExportRefused: _billing_refused, BadTerms: _billing_refused,
            HTTPException: _unrouted, Exception: _failed,
        },
    )  # fmt: skip
    app.state.plane = plane
    for part in _PARTS:
        app.include_router(part.routes, prefix=PREFIX)
    return app


def admin_routes() -> list[AdminRoute]:
    """Every route there is; their paths are below `PREFIX`."""
    routes = [route for part in _PARTS for route in part.routes.routes]
    assert all(isinstance(route, AdminRoute) for route in routes)
    return cast("list[AdminRoute]", routes)


def _answer(request: Request, refusal: Refusal) -> Response:
    caller = request.scope["state"]["caller"]
    status, headers, body = rendered(refusal, language_in(request.scope), caller.request_id)
    return Response(body, status, headers)


async def _refused(request: Request, error: Any) -> Response:
    return _answer(request, error)


async def _billing_refused(request: Request, error: Any) -> Response:
    refusal: BillingRefusal = error
    return _answer(request, fault_of(refusal))


async def _unreadable(request: Request, error: Any) -> Response:
    return _answer(request, first_invalid(error))


async def _unrouted(request: Request, error: Any) -> Response:
    code = {404: "route_not_found", 405: "method_not_allowed"}.get(error.status_code, "internal")
    allowed = _methods_of(request.url.path)
    return _answer(request, Fault(code, headers={"allow": ", ".join(allowed)} if error.status_code == 405 else {}))


def _methods_of(path: str) -> list[str]:
    """What may be asked of a path (RFC 9110 §10.2.1): Starlette knows the methods of its first route only."""
    below = path.removeprefix(PREFIX)
    return sorted(
        {method for route in admin_routes() if route.path_regex.match(below) for method in route.methods or ()}
    )


async def _failed(request: Request, error: Exception) -> Response:
    return _answer(request, Fault("internal", internal=repr(error)))
