"""Keys through the admin plane: shown once, rotated with an overlap, revoked for good."""

from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.identity.access import Access
from gateway.identity.credentials import ApiKey
from gateway.identity.keys import key_id_of, matches
from gateway.identity.secrets import load_peppers
from tests.gateway.control.admin import Administration, tenant_body


async def test_key_is_shown_once_and_its_text_is_nowhere_in_the_book(
    admin: Administration, tenant: str, database: Any
) -> None:
    issued = await admin.root.good("POST", f"/tenants/{tenant}/keys", {"label": "ci", "scopes": ["usage", "chat"]})
    text = issued.pop("key")
    assert key_id_of(text) == issued["key_id"]
    assert issued["scopes"] == ["chat", "usage"]
    row = await database.fetchrow("SELECT mac, pepper_id FROM api_key WHERE key_id = $1", issued["key_id"])
    stored = ApiKey(Access(issued["key_id"], "key", tenant), row["mac"], row["pepper_id"])
    assert matches(text, stored, load_peppers(admin.data_dir).by_id)
    shown = await admin.root.good("GET", f"/keys/{issued['key_id']}")
    assert "key" not in shown and "mac" not in shown
    record = await database.fetchval(
        "SELECT record FROM audit_pending WHERE record::jsonb->>'object' = $1", issued["key_id"]
    )
    assert text not in record and row["mac"].hex() not in record and "mac" not in record


async def test_rotated_key_ends_after_the_overlap_and_its_successor_has_the_same_rights(
    admin: Administration, tenant: str
) -> None:
    body = {"label": "app", "cidrs": ["192.0.2.0/24"], "rpm": 5, "purposes": ["research"], "purpose": "research"}
    old = await admin.root.good("POST", f"/tenants/{tenant}/keys", body)
    new = await admin.root.good("POST", f"/keys/{old['key_id']}/rotate", {"overlap_s": 3600})
    assert new["replaces"] == old["key_id"]
    for name, value in body.items():
        assert new[name] == value
    assert new["expires_at"] is None
    ends = datetime.fromisoformat((await admin.root.good("GET", f"/keys/{old['key_id']}"))["expires_at"])
    assert 3590 < (ends - datetime.now(UTC)).total_seconds() <= 3600
    status, error = await admin.root.error("POST", f"/keys/{old['key_id']}/rotate", {})
    assert (status, error["code"]) == (409, "wrong_state")


async def test_revocation_is_for_good_and_recorded_once(admin: Administration, tenant: str, database: Any) -> None:
    key_id = (await admin.root.good("POST", f"/tenants/{tenant}/keys", {}))["key_id"]
    first = await admin.root.good("POST", f"/keys/{key_id}/revoke")
    second = await admin.root.good("POST", f"/keys/{key_id}/revoke")
    assert first["revoked_at"] == second["revoked_at"] is not None
    count = await database.fetchval(
        "SELECT count(*) FROM audit_pending WHERE record::jsonb->>'object' = $1"
        " AND record::jsonb->>'verb' = 'api:key:revoke'", key_id,
    )  # fmt: skip
    assert count == 1
    status, error = await admin.root.error("POST", f"/keys/{key_id}/rotate", {})
    assert (status, error["code"]) == (409, "wrong_state")


async def test_change_names_the_field_that_does_not_fit_the_rest(admin: Administration, tenant: str) -> None:
    issued = await admin.root.good("POST", f"/tenants/{tenant}/keys", {"purpose": "research"})
    status, error = await admin.root.error("PATCH", f"/keys/{issued['key_id']}", {"purposes": ["legal"]})
    assert (status, error["code"], error["param"]) == (400, "invalid_value", "purpose")
    changed = await admin.root.good("PATCH", f"/keys/{issued['key_id']}", {"purposes": ["legal"], "purpose": "legal"})
    assert (changed["purposes"], changed["label"]) == (["legal"], "")


async def test_key_of_a_project_that_is_not_there_is_refused(admin: Administration, tenant: str) -> None:
    status, error = await admin.root.error("POST", f"/tenants/{tenant}/keys", {"project_id": "p1"})
    assert (status, error["code"], error["param"]) == (400, "invalid_value", "project_id")
    await admin.root.good("POST", f"/tenants/{tenant}/projects", {"project_id": "p1"})
    assert (await admin.root.good("POST", f"/tenants/{tenant}/keys", {"project_id": "p1"}))["project_id"] == "p1"


async def test_last_use_is_shown(admin: Administration, tenant: str, database: Any) -> None:
    key_id = (await admin.root.good("POST", f"/tenants/{tenant}/keys", {}))["key_id"]
    at = datetime(2026, 11, 1, tzinfo=UTC)
    await database.execute("INSERT INTO credential_use (credential_id, last_used_at) VALUES ($1, $2)", key_id, at)
    assert (await admin.root.good("GET", f"/keys/{key_id}"))["last_used_at"] == "2026-11-01T00:00:00Z"
    listed = (await admin.root.good("GET", f"/tenants/{tenant}/keys"))["data"]
    assert [row["last_used_at"] for row in listed] == ["2026-11-01T00:00:00Z"]


async def test_key_that_was_rotated_out_does_not_come_back(admin: Administration, tenant: str) -> None:
    old = await admin.root.good("POST", f"/tenants/{tenant}/keys", {"label": "app"})
    path = f"/keys/{old['key_id']}"
    await admin.root.good("POST", f"{path}/rotate", {"overlap_s": 3600})
    ends = (await admin.root.good("GET", path))["expires_at"]
    for wanted in (None, "2099-01-01T00:00:00Z"):
        status, error = await admin.root.error("PATCH", path, {"expires_at": wanted})
        assert (status, error["code"], error["param"]) == (409, "wrong_state", "expires_at")
    desired: Any = {"tenants": [{**tenant_body(tenant), "keys": [{"key_id": old["key_id"], "label": "app"}]}]}
    applied = await admin.root.good("POST", "/apply", {"desired": desired})
    assert [change["kind"] for change in applied["changes"] if change["effect"] == "drift"] == ["key"]
    assert (await admin.root.good("GET", path))["expires_at"] == ends
    sooner = datetime.now(UTC) + timedelta(minutes=1)
    changed = await admin.root.good("PATCH", path, {"expires_at": sooner.isoformat(), "label": "old"})
    assert datetime.fromisoformat(changed["expires_at"]) == sooner
