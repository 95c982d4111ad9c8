"""Who reaches what: every route × every role × own and foreign tenant × data-plane key × no key."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio
from fastapi import APIRouter

from gateway.control import app as control_app
from gateway.control.access import ProjectReader, TenantReader
from gateway.control.app import admin_routes, inner_app
from gateway.control.principal import AdminPrincipal, Reach
from gateway.control.roles import GRANTED, Permission, Role, allows
from gateway.control.route import AdminRoute
from gateway.control.tables import PROJECT
from gateway.control.work import Work
from gateway.faults import Fault
from gateway.identity.keys import Pepper
from tests.gateway.control.admin import Administration, Administrator, tenant_body
from tests.gateway.control.parties import Parties
from tests.gateway.control.world import Estate

ROUTES = [(method, route.path, route.permission) for route in admin_routes() for method in route.methods or ()]
# Refusals of a handler that was reached: an earlier request of this test has ended the object.
_REACHED = {200, 201, 409}
# Likewise: the licence for the model may have been revoked.
_REFUSING = {("GET", "/tenants/{tenant_id}/priority"): "object_not_found"}
_TENANTLESS = ("upstream", "rate_card", "trust_key", "admin-keys", "rate-cards", "trust-keys", "contribution")


@pytest_asyncio.fixture
async def estates(admin: Administration, parties: Parties) -> tuple[Estate, Estate]:
    """Own and foreign."""
    return await Estate.made(admin, parties), await Estate.made(admin, parties)


def test_every_route_of_the_application_declares_one_permission() -> None:
    app = inner_app(None)  # type: ignore[arg-type] # nothing is asked of it
    routers = {id(getattr(entry, "original_router", None)) for entry in app.router.routes}
    assert routers == {id(part.routes) for part in control_app._PARTS}  # nothing was added past the parts
    assert all(isinstance(permission, Permission) for _, _, permission in ROUTES)
    assert {permission for _, _, permission in ROUTES} == set(Permission)


def test_route_without_a_permission_or_with_two_cannot_be_made() -> None:
    async def nobody() -> None: ...
    async def both(one: TenantReader, other: ProjectReader) -> None: ...

    for handler in (nobody, both):
        with pytest.raises(TypeError, match="permission"):
            APIRouter(route_class=AdminRoute).get("/x")(handler)


async def test_description_lists_every_route_with_its_permission_and_the_form_of_its_errors(
    admin: Administration,
) -> None:
    described = await admin.root.good("GET", "/openapi.json")
    listed = {
        (method.upper(), path.removeprefix(control_app.PREFIX), operation["x-permission"])
        for path, operations in described["paths"].items()
        for method, operation in operations.items()
    }
    assert listed == {(method, path, permission.value) for method, path, permission in ROUTES}
    for operations in described["paths"].values():
        for operation in operations.values():
            for status in ("4XX", "5XX"):
                schema = operation["responses"][status]["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorAnswer"}
            assert "422" not in operation["responses"]
    assert set(described["components"]["schemas"]["Error"]["properties"]) >= {"code", "param", "cure", "request_id"}


@pytest.mark.parametrize("role", Role)
async def test_role_reaches_what_the_table_grants_and_nothing_else(
    admin: Administration, estates: tuple[Estate, Estate], role: Role
) -> None:
    own, foreign = estates
    somebody = await admin.somebody(role, *([own.tenant] if role is Role.SI_ENGINEER else []))
    for method, route, permission in ROUTES:
        for estate in (own, foreign):
            response = await somebody.ask(method, estate.path(route), estate.body(method, route))
            said = (role, method, route, response.status_code, response.text[:300])
            if not allows(role, permission):
                assert response.status_code == 403, said
                assert response.json()["error"]["code"] == "permission_denied", said
            elif role is Role.SI_ENGINEER and estate is foreign and _is_of_a_tenant(method, route):
                assert response.status_code in (404, 422), said
                assert "object_not_found" in response.text, said
            elif response.status_code not in _REACHED:
                assert response.json()["error"]["code"] == _REFUSING.get((method, route)), said


def _is_of_a_tenant(method: str, route: str) -> bool:
    if "{" in route:
        return not any(name in route for name in _TENANTLESS)
    return method == "POST" and route in ("/licences", "/licences/simulate", "/plan", "/apply")


@pytest.mark.parametrize("kind", ["none", "key of the data plane", "token", "unknown key", "wrong scheme", "garbage"])
async def test_nobody_without_an_admin_key_gets_past_the_door(
    admin: Administration, estates: tuple[Estate, Estate], tenant: str, kind: str
) -> None:
    key = (await admin.root.good("POST", f"/tenants/{tenant}/keys", {}))["key"]
    presented = {
        "none": "", "key of the data plane": key, "token": "eyJhbGciOiJFZDI1NTE5In0.e30.AAAA",
        "unknown key": "ska_live_" + "0" * 12 + "_" + "0" * 38, "wrong scheme": "", "garbage": "ska__",
    }[kind]  # fmt: skip
    somebody = Administrator(admin.app, presented, address="198.51.100.7" if presented else "192.0.2.9")
    for method, route, _ in [*ROUTES, ("GET", "/nothing-here", None), ("DELETE", "/tenants", None)]:
        headers = {"authorization": f"Basic {admin.root.key}"} if kind == "wrong scheme" else {}
        response = await somebody.ask(method, estates[0].path(route), {"x": 1}, extra_headers=headers)
        assert response.status_code in (401, 429), (method, route, response.text)
        code = response.json()["error"]["code"]
        assert code in ("missing_api_key", "invalid_api_key", "too_many_failed_attempts")


async def test_foreign_tenant_reads_like_one_that_does_not_exist(
    admin: Administration, estates: tuple[Estate, Estate]
) -> None:
    own, foreign = estates
    engineer = await admin.somebody("si_engineer", own.tenant)
    absent = {
        "tenant": "no-such-tenant", "key": "0" * 12, "client": "oc_" + "0" * 12, "issuer": "oi_" + "0" * 12,
        "licence": "lic-no-such", "webhook": "we_" + "0" * 12,
    }  # fmt: skip
    for kind, path in (("tenant", "/tenants/{}"), ("tenant", "/tenants/{}/keys"), ("tenant", "/tenants/{}/usage"),
                       ("key", "/keys/{}"), ("client", "/clients/{}"), ("issuer", "/issuers/{}"),
                       ("licence", "/licences/{}"), ("webhook", "/webhooks/{}"),
                       ("webhook", "/webhooks/{}/deliveries")):  # fmt: skip
        answers = []
        for name in (getattr(foreign, kind), absent[kind]):
            status, error = await engineer.error("GET", path.format(name))
            del error["request_id"]
            answers.append((status, json.dumps(error).replace(name, "NAME")))
        assert answers[0] == answers[1], kind
        assert answers[0][0] == 404


async def test_lists_hold_only_what_is_within_reach(admin: Administration, estates: tuple[Estate, Estate]) -> None:
    own, foreign = estates
    engineer = await admin.somebody("si_engineer", own.tenant)
    tenants = (await engineer.good("GET", "/tenants"))["data"]
    licences = (await engineer.good("GET", "/licences"))["data"]
    assert [row["tenant_id"] for row in tenants] == [own.tenant]
    assert {row["tenant_id"] for row in licences} == {own.tenant}
    assert (await engineer.good("GET", "/licences", params={"tenant": foreign.tenant}))["data"] == []
    everything = (await admin.root.good("GET", "/tenants", params={"limit": 1000}))["data"]
    assert {own.tenant, foreign.tenant} <= {row["tenant_id"] for row in everything}


async def test_engineer_cannot_widen_its_reach(admin: Administration, estates: tuple[Estate, Estate]) -> None:
    own, foreign = estates
    engineer = await admin.somebody("si_engineer", own.tenant)
    for body, code in (({"role": "platform_admin"}, 403), ({"role": "si_engineer", "tenants": [foreign.tenant]}, 403)):
        status, _ = await engineer.error("POST", "/admin-keys", body)
        assert status == code
    status, error = await engineer.error("PATCH", f"/tenants/{own.tenant}", {"sites": ["somebody-elses"]})
    assert (status, error["code"]) == (400, "unknown_field")
    sited: Any = {"desired": {"tenants": [{**tenant_body(own.tenant), "sites": ["somebody-elses"]}]}}
    status, error = await engineer.error("POST", "/apply", sited)
    assert [(problem["path"], problem["code"]) for problem in error["problems"]] == [
        ("tenants[0].sites", "permission_denied")
    ]
    status, error = await engineer.error("POST", "/licences", {"envelope": foreign.envelope})
    assert (status, error["code"], error["param"]) == (404, "object_not_found", "licensee.tenant")
    desired: Any = {"desired": {"upstreams": [], "trust_keys": [], "tenants": []}}
    status, error = await engineer.error("POST", "/apply", desired)
    assert {(problem["path"], problem["code"]) for problem in error["problems"]} == {
        ("upstreams", "permission_denied"), ("trust_keys", "permission_denied"),
    }  # fmt: skip


def test_only_administrators_of_the_platform_may_do_everything() -> None:
    assert GRANTED[Role.PLATFORM_ADMIN] == set(Permission)
    for role in set(Role) - {Role.PLATFORM_ADMIN}:
        assert GRANTED[role] < set(Permission)
        assert not allows(role, Permission.ADMIN_KEY_WRITE)
        assert not allows(role, Permission.TRUST_WRITE)
    assert not any(permission.writes for permission in GRANTED[Role.AUDITOR])


async def test_row_of_a_tenant_out_of_reach_is_not_even_tried() -> None:
    engineer = AdminPrincipal("k", Role.SI_ENGINEER, Reach(frozenset({"own"})))
    no_connection: Any = None
    work = Work(no_connection, engineer, datetime.now(UTC), "", Pepper("p", b""), no_connection)
    with pytest.raises(Fault) as refused:
        await work.create(PROJECT, {"tenant_id": "foreign", "project_id": "p"})
    assert refused.value.code.name == "object_not_found"
