"""The configuration as gateways read it: one bad row stops nobody else, and what changed is read, nothing else."""

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from gateway.clock import now_us
from gateway.licensing.decide import Ask, decide, models_of
from gateway.tenancy.parties import LocalParties
from gateway.tenancy.snapshot import Snapshot
from gateway.tenancy.store import Configuration, read_epoch
from tests.conftest import Stores, a_tenant, read_snapshot
from tests.licences import a_licence

_TENANT = (
    "INSERT INTO tenant (tenant_id, legal_name, tokens_month, micro_yen_month, rpm, concurrency)"
    " VALUES ($1, 'x', 1, 1, 1, 1)"
)
_UPSTREAM = (
    "INSERT INTO upstream (upstream_id, model, base_url, served_model, tier, region, site, profile)"
    " VALUES ($1, $1, 'http://x/v1', 'm', 'edge', 'jp', 's', '{\"context_tokens\": 1, \"max_output_tokens\": 1}')"
    " ON CONFLICT DO NOTHING"
)
GRANT = {"id": "g1", "models": ["m1"], "actions": ["chat"]}


@pytest_asyncio.fixture
async def database(stores: Stores) -> AsyncIterator[Any]:
    """A connection with the application's rights whose writes are undone: nobody else must meet what is forged here."""
    connection: Any = await asyncpg.connect(stores.dsn, server_settings={"role": "sekisho_app"})
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.close()


async def licensed(database: Any, folder: Path, tenant_id: str, **changes: Any) -> str:
    """A tenant with one signed licence; its id."""
    await database.execute(_UPSTREAM, "m1")
    await database.execute(_TENANT, tenant_id)
    licence_id = f"lic-{tenant_id}"
    await LocalParties(folder).store(database, {**a_licence(tenant_id, licence_id, [GRANT]), **changes})
    return licence_id


def permitted(snapshot: Snapshot, tenant_id: str) -> bool:
    """Whether the tenant may chat with m1."""
    ask = Ask(tenant_id, "m1", "1.0.0", "chat", "general", "restricted", "JP", "jp", "edge", "", False)
    return decide(snapshot.licences, ask, now_us()).allowed


async def test_signed_licence_permits_and_an_unsigned_one_does_not(database: Any, tmp_path: Path) -> None:
    signed, unsigned = a_tenant().tenant_id, a_tenant().tenant_id
    await licensed(database, tmp_path, signed)
    await database.execute(_TENANT, unsigned)
    await database.execute(
        "INSERT INTO licence (licence_id, version, tenant_id, document) VALUES ($1, 1, $2, $3::jsonb)",
        f"lic-{unsigned}", unsigned, json.dumps(a_licence(unsigned, f"lic-{unsigned}", [GRANT])),
    )  # fmt: skip
    snapshot = await read_snapshot(database)
    assert permitted(snapshot, signed)
    assert not permitted(snapshot, unsigned)


async def test_envelope_altered_in_the_database_grants_nothing_and_stops_nobody_else(
    database: Any, tmp_path: Path
) -> None:
    good, bad = a_tenant().tenant_id, a_tenant().tenant_id
    await licensed(database, tmp_path, good)
    licence_id = await licensed(database, tmp_path, bad)
    configuration = Configuration()
    assert permitted(await configuration.read(database), bad)
    text = await database.fetchval("SELECT envelope FROM licence WHERE licence_id = $1", licence_id)
    envelope = json.loads(text)
    payload = json.loads(base64.b64decode(envelope["payload"]))
    payload["grants"][0]["actions"].append("completion")
    altered = base64.b64encode(json.dumps(payload, separators=(",", ":"), sort_keys=True).encode()).decode()
    changed = text.replace(envelope["payload"], altered)
    await database.execute("UPDATE licence SET envelope = $2 WHERE licence_id = $1", licence_id, changed)
    snapshot = await configuration.read(database)
    assert not permitted(snapshot, bad)
    assert permitted(snapshot, good)


async def test_envelope_of_another_tenants_licence_grants_nothing(database: Any, tmp_path: Path) -> None:
    owner, thief = a_tenant().tenant_id, a_tenant().tenant_id
    licence_id = await licensed(database, tmp_path, owner)
    await database.execute(_TENANT, thief)
    stolen = await database.fetchval("SELECT envelope FROM licence WHERE licence_id = $1", licence_id)
    await database.execute(
        "INSERT INTO licence (licence_id, version, tenant_id, document, envelope) VALUES ('lic-x', 1, $1, $2, $3)",
        thief, json.dumps(a_licence(thief, "lic-x", [GRANT])), stolen,
    )  # fmt: skip
    snapshot = await read_snapshot(database)
    assert not permitted(snapshot, thief)
    assert models_of(snapshot.licences, thief, now_us()) == []


async def test_revoked_signing_key_takes_its_licences_along(database: Any, tmp_path: Path) -> None:
    tenant = a_tenant().tenant_id
    await licensed(database, tmp_path, tenant)
    configuration = Configuration()
    assert permitted(await configuration.read(database), tenant)
    key_id = LocalParties(tmp_path).key("licensee", tenant).key_id
    await database.execute("UPDATE trust_key SET revoked_at = now() WHERE key_id = $1", key_id)
    assert not permitted(await configuration.read(database), tenant)
    await database.execute("UPDATE trust_key SET revoked_at = NULL WHERE key_id = $1", key_id)
    assert permitted(await configuration.read(database), tenant)


async def test_later_version_does_not_undo_a_revocation(database: Any, tmp_path: Path) -> None:
    tenant = a_tenant().tenant_id
    licence_id = await licensed(database, tmp_path, tenant)
    await database.execute("UPDATE licence SET revoked_at = now() WHERE licence_id = $1", licence_id)
    await LocalParties(tmp_path).store(database, a_licence(tenant, licence_id, [GRANT], version=2))
    assert not permitted(await read_snapshot(database), tenant)


async def test_changes_are_read_and_nothing_that_did_not_change(database: Any, tmp_path: Path) -> None:
    first, second = a_tenant().tenant_id, a_tenant().tenant_id
    await licensed(database, tmp_path, first)
    configuration = Configuration()
    before = await configuration.read(database)
    assert not configuration.stale(await read_epoch(database))
    licence_id = await licensed(database, tmp_path, second)
    assert configuration.stale(await read_epoch(database))
    after = await configuration.read(database)
    assert permitted(after, second) and not permitted(before, second)
    assert after.licences[first] is before.licences[first]
    await database.execute("UPDATE licence SET revoked_at = now() WHERE licence_id = $1", licence_id)
    assert not permitted(await configuration.read(database), second)
    assert permitted(after, second)  # a snapshot never changes


async def test_deleted_row_is_forgotten(database: Any, tmp_path: Path) -> None:
    tenant = a_tenant().tenant_id
    await licensed(database, tmp_path, tenant)
    configuration = Configuration()
    await configuration.read(database)
    await database.execute("SET ROLE NONE")  # only the owner may delete
    await database.execute("DELETE FROM licence WHERE tenant_id = $1", tenant)
    await database.execute("DELETE FROM tenant WHERE tenant_id = $1", tenant)
    snapshot = await configuration.read(database)
    assert tenant not in snapshot.tenants and not permitted(snapshot, tenant)


async def test_credential_that_means_nothing_is_none_and_stops_nobody_else(database: Any, tmp_path: Path) -> None:
    tenant = a_tenant().tenant_id
    await licensed(database, tmp_path, tenant)
    for key_id, cidrs in (("goodKey00001", ["10.0.0.0/8"]), ("badKey000001", ["no network"])):
        await database.execute(
            "INSERT INTO api_key (key_id, tenant_id, mac, pepper_id, cidrs) VALUES ($1, $2, $3, 'p1', $4)",
            key_id, tenant, bytes(32), cidrs,
        )  # fmt: skip
    snapshot = await read_snapshot(database)
    assert "goodKey00001" in snapshot.credentials.keys and "badKey000001" not in snapshot.credentials.keys
    assert permitted(snapshot, tenant)


async def test_retired_upstream_serves_no_more(database: Any) -> None:
    configuration = Configuration()
    await database.execute(_UPSTREAM, "m-retired")
    assert "m-retired" in (await configuration.read(database)).upstreams
    await database.execute("UPDATE upstream SET retired_at = now() WHERE upstream_id = 'm-retired'")
    assert "m-retired" not in (await configuration.read(database)).upstreams


async def test_licence_row_must_be_its_documents_own(database: Any) -> None:
    mine, other = a_tenant().tenant_id, a_tenant().tenant_id
    await database.execute(_TENANT, mine)
    with pytest.raises(asyncpg.CheckViolationError):
        await database.execute(
            "INSERT INTO licence (licence_id, version, tenant_id, document) VALUES ('lic-x', 1, $1, $2::jsonb)",
            mine, json.dumps(a_licence(other, "lic-x", [GRANT])),
        )  # fmt: skip


@pytest.mark.parametrize("model", ["モデル", "m" * 65, "a b", "m@1", ""])
async def test_model_name_that_no_audit_record_can_hold_is_refused(database: Any, model: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await database.execute(
            "INSERT INTO upstream (upstream_id, model, base_url, served_model, tier, region, site, profile)"
            " VALUES ('u-bad', $1, 'http://x/v1', 'm', 'edge', 'jp', 's', '{}'::jsonb)",
            model,
        )


async def test_every_change_of_configuration_raises_the_epoch(database: Any) -> None:
    before = (await read_snapshot(database)).epoch
    await database.execute(_TENANT, a_tenant().tenant_id)
    assert (await read_snapshot(database)).epoch == before + 1
