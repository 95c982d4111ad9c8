"""The ASGI applications: the data plane (`/v1/…`) and the operations port. Every route but health is authenticated."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import uuid_utils
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as HttpRoute
from starlette.types import Receive, Scope, Send

from gateway.edge.document import JSON, Document
from gateway.edge.exchange import Exchange
from gateway.edge.headers import response_headers
from gateway.edge.inbound import Inbound
from gateway.edge.oauth import routes as oauth_routes
from gateway.edge.openai import error_body
from gateway.edge.pipeline import ROUTES, Route
from gateway.edge.query import check_query
from gateway.edge.usage import usage_answer
from gateway.faults import Fault, language_of
from gateway.identity.access import Scope as AccessScope
from gateway.identity.scopes import model_allowed
from gateway.licensing.decide import models_of
from gateway.process import Gateway


class ModelCall:
    """ASGI endpoint of one route that a model answers."""

    def __init__(self, gateway: Gateway, route: Route) -> None:
        self._gateway = gateway
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        inbound = Inbound(scope, receive, send, self._gateway.identifier.trusted_proxies)
        await self._gateway.pipeline.serve(inbound, self._route)


Query = Callable[[Exchange, Request], Awaitable[Any]]


class TenantQuery:
    """ASGI endpoint that answers a tenant about itself from `query`, as JSON unless that gives a `Document`; its
    credential needs `scope`."""

    def __init__(self, gateway: Gateway, scope: AccessScope, query: Query) -> None:
        self._gateway = gateway
        self._scope = scope
        self._query = query

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Identify the caller, then answer."""
        gateway = self._gateway
        inbound = Inbound(scope, receive, send, gateway.identifier.trusted_proxies)
        exchange = Exchange(self._scope, gateway.instance_id, opened_at=gateway.clock.now(), origin=inbound.origin)
        try:
            await gateway.pipeline.identify(exchange, inbound)
            check_query(scope["query_string"])
            found = await self._query(exchange, Request(scope, receive))
        except Fault as fault:
            exchange.fail(fault)
            gateway.settler.conclude(exchange)
            await inbound.refuse(fault, exchange.request_id, response_headers(exchange, inbound))
            return
        document = found if isinstance(found, Document) else Document(JSON, msgspec.json.encode(found))
        await inbound.deliver(response_headers(exchange, inbound), document)


class DataPlane:
    """The data plane: model calls go straight to the pipeline, everything else through the framework's router."""

    def __init__(self, gateway: Gateway) -> None:
        self._calls = {path: ModelCall(gateway, route) for path, route in ROUTES.items()}
        self._rest = _rest(gateway, self._calls)

    @property
    def routes(self) -> list[tuple[str, frozenset[str]]]:
        """Every path with its methods. Raises `TypeError` for a route without methods, which is open to all of them."""
        listed = []
        for route in self._rest.router.routes:
            if not isinstance(route, HttpRoute) or not route.methods:
                raise TypeError(f"a route of the data plane names its path and methods, and {route!r} does not")
            listed.append((route.path, frozenset(route.methods)))
        return listed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        call = self._calls.get(scope["path"]) if scope["method"] == "POST" else None
        await (call or self._rest)(scope, receive, send)


def _rest(gateway: Gateway, calls: Mapping[str, ModelCall]) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, exception_handlers={HTTPException: _http_error})
    app.router.redirect_slashes = False  # a redirect would name the caller's own Host header, to anybody
    for path, call in calls.items():  # never reached by POST; here so that any other method gets its 405
        app.router.routes.append(HttpRoute(path, call, methods=["POST"]))
    queries: dict[str, tuple[AccessScope, Query]] = {
        "/v1/models": ("models", _models),
        "/v1/models/{model:path}": ("models", _model),
        "/v1/usage": ("usage", gateway_usage(gateway)),
        "/v1/limits": ("usage", gateway_limits(gateway)),
    }
    for path, (scope, query) in queries.items():
        app.router.routes.append(HttpRoute(path, TenantQuery(gateway, scope, query), methods=["GET"]))
    app.router.routes += oauth_routes(
        gateway.identifier, lambda: gateway.watch.current().credentials, gateway.clock.now
    )
    _add_health(app, gateway)
    return app


def operations_app(gateway: Gateway) -> FastAPI:
    """Health for the operator's port."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, exception_handlers={HTTPException: _http_error})
    _add_health(app, gateway)
    return app


def gateway_usage(gateway: Gateway) -> Query:
    """`GET /v1/usage` of the calling tenant."""

    async def query(exchange: Exchange, request: Request) -> Any:
        accept = request.headers.get("accept", "")
        return await usage_answer(gateway.queries, exchange, request.query_params, accept, datetime.now(UTC))

    return query


def gateway_limits(gateway: Gateway) -> Query:
    """`GET /v1/limits` of the calling credential."""

    async def query(exchange: Exchange, request: Request) -> Any:
        for name in request.query_params:
            raise Fault("unknown_parameter", param=name)
        assert exchange.tenant is not None and exchange.principal is not None
        return await gateway.limits.of_credential(exchange.tenant, exchange.principal.access)

    return query


async def _models(exchange: Exchange, _request: Request) -> dict[str, object]:
    return {"object": "list", "data": [_card(exchange, model) for model in _visible(exchange)]}


async def _model(exchange: Exchange, request: Request) -> dict[str, object]:
    model = request.path_params["model"]
    if model not in _visible(exchange):
        raise Fault("model_not_found", param="model")
    return _card(exchange, model)


def _visible(exchange: Exchange) -> list[str]:
    snapshot, principal = exchange.snapshot, exchange.principal
    assert principal is not None
    licensed = models_of(snapshot.licences, principal.tenant_id, exchange.opened_at)
    return [model for model in licensed if model in snapshot.upstreams and model_allowed(principal, model)]


def _card(exchange: Exchange, model: str) -> dict[str, object]:
    created = exchange.snapshot.upstreams[model][0].created_at // 1_000_000
    return {"id": model, "object": "model", "created": created, "owned_by": "sekisho"}


def _add_health(app: FastAPI, gateway: Gateway) -> None:
    async def healthz() -> Response:
        return Response('{"status":"ok"}', media_type="application/json")

    async def readyz() -> Response:
        problem = await gateway.unready()
        state = {"status": "ready"} if problem is None else {"status": "not ready", "why": problem}
        body = msgspec.json.encode({**state, "degraded": gateway.degraded} if gateway.degraded else state)
        return Response(body, 200 if problem is None else 503, media_type="application/json")

    app.get("/healthz")(healthz)
    app.get("/readyz")(readyz)


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405 in the dialect of all our errors."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    code = {404: "route_not_found", 405: "method_not_allowed"}.get(status, "internal")
    fault, request_id = Fault(code), str(uuid_utils.uuid7())
    body = error_body(fault, language_of(request.headers.get("accept-language", "")), request_id)
    headers = dict(getattr(error, "headers", None) or {})  # `Allow` of a 405
    headers |= {"x-request-id": request_id, "x-sekisho-outcome": fault.code.outcome.value}
    return Response(body, fault.code.status, headers, media_type="application/json")
