"""Admin keys: in force or not at all, guessed in vain, and the first one made by whoever holds the data folder."""

import asyncio
import http.client
import json
import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import asyncpg
import pytest
from asyncpg.exceptions._base import DataError as ClientDataError

from gateway.control import usage
from gateway.control.bootstrap import ensure_admin_key
from gateway.control.refusals import is_unavailable
from gateway.control.work_store import hold_write_lock
from gateway.identity.keys import key_id_of
from tests.conftest import Stores
from tests.gateway.control.admin import Administration, Administrator, tenant_body


async def test_revoked_admin_key_is_refused_at_its_next_request(admin: Administration) -> None:
    issued = await admin.root.good("POST", "/admin-keys", {"role": "auditor"})
    somebody = Administrator(admin.app, issued["key"])
    assert (await somebody.good("GET", "/whoami"))["role"] == "auditor"
    await admin.root.good("POST", f"/admin-keys/{issued['key_id']}/revoke")
    status, error = await somebody.error("GET", "/whoami")
    assert (status, error["code"]) == (401, "key_revoked")


async def test_key_that_is_revoked_while_its_body_arrives_writes_nothing(admin: Administration, database: Any) -> None:
    issued = await admin.root.good("POST", "/admin-keys", {"role": "platform_admin"})
    somebody = Administrator(admin.app, issued["key"])
    body = tenant_body()
    text = json.dumps(body).encode()

    async def dribbled() -> AsyncIterator[bytes]:
        yield text[:10]
        await admin.root.good("POST", f"/admin-keys/{issued['key_id']}/revoke")
        yield text[10:]

    json_type = {"content-type": "application/json"}
    status, error = await somebody.error("POST", "/tenants", content=dribbled(), extra_headers=json_type)
    assert (status, error["code"]) == (401, "key_revoked")
    assert not await database.fetchval("SELECT true FROM tenant WHERE tenant_id = $1", body["tenant_id"])
    acted = "SELECT count(*) FROM audit_pending WHERE log = 'administration' AND record LIKE $1"
    assert await database.fetchval(acted, f'%"key_id":"{issued["key_id"]}","role"%"{body["tenant_id"]}"%') == 0


async def records_of(database: Any, issued: Any) -> int:
    """How many acts of a key are recorded."""
    query = "SELECT count(*) FROM audit_pending WHERE record::jsonb->'actor'->>'key_id' = $1"
    count: int = await database.fetchval(query, issued["key_id"])
    return count


@pytest.mark.parametrize(
    ("ends", "code"), [("expires_at = now()", "key_expired"), ("role = 'auditor'", "invalid_api_key")]
)
async def test_key_that_ends_or_changes_while_the_body_arrives_writes_nothing(
    admin: Administration, database: Any, ends: str, code: str
) -> None:
    issued = await admin.root.good("POST", "/admin-keys", {"role": "platform_admin"})
    text = json.dumps(tenant_body()).encode()

    async def dribbled() -> AsyncIterator[bytes]:
        yield text[:10]
        await database.execute(f"UPDATE admin_key SET {ends} WHERE key_id = $1", issued["key_id"])  # noqa: S608
        yield text[10:]

    headers = {"content-type": "application/json"}
    somebody = Administrator(admin.app, issued["key"])
    status, error = await somebody.error("POST", "/tenants", content=dribbled(), extra_headers=headers)
    assert (status, error["code"]) == (401, code)
    assert await records_of(database, issued) == 0


async def test_key_that_ends_while_its_change_waits_for_another_writes_nothing(
    admin: Administration, database: Any, stores: Stores
) -> None:
    issued = await admin.root.good("POST", "/admin-keys", {"role": "platform_admin"})
    body = tenant_body()
    holder = await asyncpg.connect(stores.dsn)
    try:
        async with holder.transaction():
            await hold_write_lock(holder)
            asked = asyncio.create_task(Administrator(admin.app, issued["key"]).error("POST", "/tenants", body))
            waiting = "SELECT true FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while not await database.fetchval(waiting):
                assert not asked.done(), asked.result()
            await holder.execute("UPDATE admin_key SET revoked_at = now() WHERE key_id = $1", issued["key_id"])
        status, error = await asked
    finally:
        await holder.close()
    assert (status, error["code"]) == (401, "key_revoked")
    assert not await database.fetchval("SELECT true FROM tenant WHERE tenant_id = $1", body["tenant_id"])
    assert await records_of(database, issued) == 0


async def test_failure_of_ours_is_a_500_and_the_connection_goes_on(
    admin: Administration, url: str, monkeypatch: pytest.MonkeyPatch, tenant: str
) -> None:
    async def broken(*_: Any) -> Any:
        raise asyncpg.DataError("wrong")

    monkeypatch.setattr(usage, "usage", broken)
    address = urlsplit(url)

    def ask() -> list[tuple[int, Any]]:
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
        connection.connect()
        opened, answers = connection.sock, []
        for path in (f"/tenants/{tenant}/usage", "/whoami", f"/tenants/{tenant}/usage"):
            connection.request("GET", address.path + path, headers={"authorization": f"Bearer {admin.root.key}"})
            response = connection.getresponse()
            answers.append((response.status, json.loads(response.read())))
            assert connection.sock is opened
        connection.close()
        return answers

    answers = await asyncio.to_thread(ask)
    assert [status for status, _ in answers] == [500, 200, 500]
    assert answers[0][1]["error"]["code"] == "internal" and "wrong" not in str(answers[0][1])


@pytest.mark.parametrize(
    ("error", "passes"),
    [(asyncpg.CannotConnectNowError(""), True), (asyncpg.TooManyConnectionsError(""), True),
     (asyncpg.AdminShutdownError(""), True), (asyncpg.QueryCanceledError(""), True), (TimeoutError(), True),
     (asyncpg.LockNotAvailableError(""), True), (asyncpg.ConnectionDoesNotExistError(""), True),
     (asyncpg.InterfaceError("connection is closed"), True), (ConnectionRefusedError(), True),
     (asyncpg.DataError(""), False), (asyncpg.CharacterNotInRepertoireError(""), False),
     (asyncpg.UndefinedColumnError(""), False), (ClientDataError("x"), False), (KeyError(), False)],
)  # fmt: skip
def test_only_what_passes_by_itself_is_told_as_unavailable(error: Exception, passes: bool) -> None:
    assert is_unavailable(error) is passes


async def test_expired_admin_key_is_refused_also_by_a_clock_that_was_set_back(
    admin: Administration, stores: Stores
) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=90)
    body = {"role": "auditor", "expires_at": soon.isoformat()}
    somebody = Administrator(admin.app, (await admin.root.good("POST", "/admin-keys", body))["key"])
    await somebody.good("GET", "/whoami")
    owner = await asyncpg.connect(stores.dsn)
    try:
        before = await owner.fetchval("SELECT highest_at FROM clock_mark")
        await owner.execute("UPDATE clock_mark SET highest_at = $1", soon)
        status, error = await somebody.error("GET", "/whoami")
        await owner.execute("UPDATE clock_mark SET highest_at = $1", before)
    finally:
        await owner.close()
    assert (status, error["code"]) == (401, "key_expired")


async def test_one_changed_character_of_a_key_is_refused(admin: Administration) -> None:
    key = admin.root.key
    for place in (0, 4, len(key) // 2, len(key) - 1):
        wrong = key[:place] + ("x" if key[place] != "x" else "y") + key[place + 1 :]
        status, error = await Administrator(admin.app, wrong, address="192.0.2.77").error("GET", "/whoami")
        assert (status, error["code"]) == (401, "invalid_api_key")


async def test_address_that_guesses_is_slowed_and_nobody_else(admin: Administration) -> None:
    guesser = Administrator(admin.app, "ska_live_guess", address="203.0.113.5")
    codes = [(await guesser.ask("GET", "/whoami")).status_code for _ in range(70)]
    assert codes[:60] == [401] * 60 and set(codes[60:]) == {429}
    refused = await guesser.ask("GET", "/whoami")
    assert 0 < int(refused.headers["retry-after"]) <= 60
    other = Administrator(admin.app, "ska_live_guess", address="203.0.113.6")
    assert (await other.ask("GET", "/whoami")).status_code == 401
    # Who holds a good key is not kept out by a neighbour behind the same address.
    assert (await Administrator(admin.app, admin.root.key, address="203.0.113.5").ask("GET", "/whoami")).is_success


async def test_first_admin_key_is_private_stays_the_same_and_is_replaced_once_revoked(
    admin: Administration, stores: Stores, tmp_path: Path, database: Any
) -> None:
    first = await ensure_admin_key(database, tmp_path)
    file = tmp_path / "secrets" / "admin.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and file.read_text() == first
    assert await ensure_admin_key(database, tmp_path) == first
    row = await database.fetchrow(
        "SELECT record FROM audit_pending WHERE record::jsonb->>'object' = $1", key_id_of(first, prefix="ska")
    )
    assert '"local:admin_key:create"' in row["record"] and first not in row["record"]
    assert await ensure_admin_key(database, tmp_path, role="auditor") != first  # another role is another key
    again = await ensure_admin_key(database, tmp_path)
    await admin.root.good("POST", f"/admin-keys/{key_id_of(again, prefix='ska')}/revoke")
    assert await ensure_admin_key(database, tmp_path) not in (first, again)


async def test_admin_key_of_another_data_folder_is_worth_nothing(
    admin: Administration, tmp_path: Path, database: Any
) -> None:
    other = await ensure_admin_key(database, tmp_path)  # under another pepper of the same name
    status, error = await Administrator(admin.app, other, address="192.0.2.78").error("GET", "/whoami")
    assert (status, error["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("tenants", [[], ["no-such-tenant"]])
async def test_engineer_without_a_tenant_that_exists_is_not_made(admin: Administration, tenants: list[str]) -> None:
    status, _ = await admin.root.error("POST", "/admin-keys", {"role": "si_engineer", "tenants": tenants})
    assert status in (400, 404)


async def test_stored_admin_key_does_not_tell_its_text(admin: Administration, database: Any) -> None:
    row = await database.fetchrow("SELECT * FROM admin_key WHERE key_id = $1", key_id_of(admin.root.key, prefix="ska"))
    assert admin.root.key not in str(dict(row))
    listed = await admin.root.good("GET", "/admin-keys")
    assert all("mac" not in entry and "key" not in entry for entry in listed["data"])


async def test_plane_without_a_database_says_so_and_nothing_else(admin: Administration, stores: Stores) -> None:
    from gateway.control.app import admin_app
    from gateway.control.plane import Plane, pool_of
    from gateway.identity.secrets import load_peppers
    from gateway.identity.shared import FailedAttempts
    from gateway.limits.scripts import Scripts
    from gateway.tenancy.keystore import KeyFiles

    scripts = Scripts(stores.valkey_url)
    async with pool_of("postgresql:///x?host=/nowhere") as pool:
        plane = Plane(pool, load_peppers(admin.data_dir), KeyFiles(admin.data_dir), cast("Any", None))
        app = admin_app(plane, FailedAttempts(scripts, 60))
        status, error = await Administrator(app, admin.root.key).error("GET", "/whoami")
    await scripts.close()
    assert (status, error["code"]) == (503, "store_unavailable")
    assert "nowhere" not in str(error)
