"""Every change leaves its record in the transaction that makes it: who, what, before and after, and no secret."""

import json
from typing import Any

import asyncpg
import httpx
import pytest
import rfc8785

from gateway.control.audit import RECORD_BYTES_MAX
from gateway.control.roles import Permission
from tests.gateway.control.admin import Administration, tenant_body
from tests.gateway.control.parties import Parties
from tests.gateway.control.test_roles import ROUTES
from tests.gateway.control.world import Estate

# A rotation makes one key and ends another; what is stored already is no change; the others are told by their names.
RECORDS = {"/keys/{key_id}/rotate": 2, "/licences": 0, "/apply": 0}


async def records(database: Any, response: httpx.Response) -> list[dict[str, Any]]:
    """The records of a request."""
    rows = await database.fetch(
        "SELECT tenant_id, record FROM audit_pending WHERE log = 'administration' AND record::jsonb->>'request' = $1"
        " ORDER BY id",
        response.headers["x-request-id"],
    )
    for row in rows:
        assert row["record"].encode() == rfc8785.dumps(json.loads(row["record"]))
        assert len(row["record"].encode()) <= RECORD_BYTES_MAX
        assert row["tenant_id"] == json.loads(row["record"])["tenant"]
    return [json.loads(row["record"]) for row in rows]


@pytest.mark.parametrize(
    ("method", "route"),
    [
        (method, route)
        for method, route, permission in ROUTES
        if permission.writes and permission is not Permission.PLAN
    ],
)
async def test_every_write_leaves_one_record_of_each_object_it_changed(
    admin: Administration, parties: Parties, database: Any, method: str, route: str
) -> None:
    estate = await Estate.made(admin, parties)
    response = await admin.root.ask(method, estate.path(route), estate.body(method, route))
    assert response.is_success, response.text
    found = await records(database, response)
    assert len(found) == RECORDS.get(route, 1)
    for record in found:
        assert set(record) == {"v", "verb", "actor", "object", "tenant", "before", "after", "at", "request"}
        assert record["actor"] == {"key_id": (await admin.root.good("GET", "/whoami"))["key_id"],
                                   "role": "platform_admin"}  # fmt: skip
        source, kind, action = record["verb"].split(":")
        assert (source, bool(kind), bool(action)) == ("api", True, True)
        assert record["before"] != record["after"]


async def test_record_holds_the_changed_fields_before_and_after(
    admin: Administration, tenant: str, database: Any
) -> None:
    response = await admin.root.ask("PATCH", f"/tenants/{tenant}", {"rpm": 61, "zone": "Asia/Tokyo"})
    (record,) = await records(database, response)
    assert (record["verb"], record["object"], record["tenant"]) == ("api:tenant:update", tenant, tenant)
    assert (record["before"], record["after"]) == ({"rpm": 60}, {"rpm": 61})
    response = await admin.root.ask("PATCH", f"/tenants/{tenant}", {"rpm": 61})
    assert response.is_success and await records(database, response) == []  # nothing changed


async def test_change_whose_record_cannot_be_written_is_not_made(
    admin: Administration, database: Any, stores: Any
) -> None:
    body = tenant_body()
    holder = await asyncpg.connect(stores.dsn)
    try:
        async with holder.transaction():
            await holder.execute("LOCK TABLE audit_pending IN EXCLUSIVE MODE")
            status, error = await admin.root.error("POST", "/tenants", body)
    finally:
        await holder.close()
    assert (status, error["code"]) == (503, "store_unavailable")
    assert "audit_pending" not in json.dumps(error)
    assert not await database.fetchval("SELECT true FROM tenant WHERE tenant_id = $1", body["tenant_id"])


async def test_change_is_committed_before_its_answer_begins(admin: Administration, database: Any) -> None:
    body = tenant_body()
    seen = []

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        async def looking(message: Any) -> None:
            if message["type"] == "http.response.start":
                query = "SELECT true FROM tenant WHERE tenant_id = $1"
                seen.append((message["status"], await database.fetchval(query, body["tenant_id"])))
            await send(message)

        await admin.app(scope, receive, looking)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(watched), base_url="http://admin") as client:
        await client.post("/admin/v1/tenants", json=body, headers={"authorization": f"Bearer {admin.root.key}"})
    assert seen == [(201, True)]


async def test_refused_change_leaves_no_record(admin: Administration, tenant: str, database: Any) -> None:
    response = await admin.root.ask("POST", "/tenants", tenant_body(tenant))
    assert response.status_code == 409
    assert await records(database, response) == []


async def test_auditor_reads_the_log_by_actor_verb_object_tenant_and_time(admin: Administration, tenant: str) -> None:
    auditor, engineer = await admin.somebody("auditor"), await admin.somebody("si_engineer", tenant)
    key = await engineer.good("POST", f"/tenants/{tenant}/keys", {})
    await engineer.good("POST", f"/keys/{key['key_id']}/revoke")
    actor = (await engineer.good("GET", "/whoami"))["key_id"]

    async def verbs(**query: str) -> list[str]:
        return [entry["verb"] for entry in (await auditor.good("GET", "/audit", params=query))["data"]]

    assert await verbs(actor=actor) == ["api:key:revoke", "api:key:create"]
    assert await verbs(tenant=tenant) == ["api:key:revoke", "api:key:create", "api:tenant:create"]
    assert await verbs(tenant=tenant, verb="api:key:*") == ["api:key:revoke", "api:key:create"]
    assert await verbs(object=key["key_id"], verb="api:key:revoke") == ["api:key:revoke"]
    assert await verbs(tenant=tenant, verb="api:%") == []
    assert await verbs(tenant=tenant, to="2026-01-01T00:00:00Z") == []
    first = await auditor.good("GET", "/audit", params={"tenant": tenant, "limit": "2"})
    rest = await auditor.good("GET", "/audit", params={"tenant": tenant, "limit": "2", "before": first["next"]})
    assert [entry["verb"] for entry in rest["data"]] == ["api:tenant:create"] and rest["next"] is None
    status, error = await engineer.error("GET", "/audit")
    assert (status, error["code"]) == (403, "permission_denied")


async def test_applied_changes_are_recorded_as_such(admin: Administration, tenant: str, database: Any) -> None:
    desired = {"tenants": [{**tenant_body(tenant), "rpm": 99, "projects": [{"project_id": "p1"}]}]}
    response = await admin.root.ask("POST", "/apply", {"desired": desired})
    found = await records(database, response)
    assert [record["verb"] for record in found] == ["apply:tenant:update", "apply:project:create"]
