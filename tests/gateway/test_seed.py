"""The demo of `make up`: the same after every start, and no start undoes what an administrator did."""

from pathlib import Path
from typing import Any

import asyncpg
import pytest_asyncio

from billing.invoices.registration import is_registration_number
from billing.invoices.service import preview
from gateway.clock import now_us
from gateway.licensing.decide import models_of
from gateway.licensing.envelope import open_envelope
from gateway.migrations.run import migrate
from gateway.tenancy.seed import DemoAccess, seed_demo
from tests.conftest import Stores, read_snapshot

PROFILE = {"context_tokens": 2048, "max_output_tokens": 1024}


@pytest_asyncio.fixture
async def own_dsn(stores: Stores) -> Any:
    """A database of its own: the demo's rows have fixed names."""
    admin = await asyncpg.connect(stores.dsn)
    await admin.execute("CREATE DATABASE seeded")
    dsn = stores.dsn.replace("/sekisho?", "/seeded?")
    await migrate(dsn)
    yield dsn
    await admin.execute("DROP DATABASE seeded WITH (FORCE)")
    await admin.close()


async def seeded(dsn: str, folder: Path, model: str = "m1") -> DemoAccess:
    described = {"id": model, "tier": "heavy", "region": "jp-east", "site": "local", "profile": PROFILE}
    return await seed_demo(
        dsn, folder, upstream_base_url="http://127.0.0.1:1/v1", witness_url=None, model=described, engine="scripted"
    )


async def test_second_start_changes_nothing(own_dsn: str, tmp_path: Path) -> None:
    first = await seeded(own_dsn, tmp_path)
    envelope = first.licence_path.read_bytes()
    assert await seeded(own_dsn, tmp_path) == first
    assert first.licence_path.read_bytes() == envelope
    assert first.licence_path.stat().st_mode & 0o077 == 0


async def test_another_model_is_the_next_version_of_the_licence(own_dsn: str, tmp_path: Path) -> None:
    await seeded(own_dsn, tmp_path)
    access = await seeded(own_dsn, tmp_path, "m2")
    document = open_envelope(access.licence_path.read_bytes()).document
    assert (document.licence_id, document.version, document.supersedes) == ("lic-demo", 2, 1)
    connection = await asyncpg.connect(own_dsn)
    try:
        assert models_of((await read_snapshot(connection)).licences, "demo", now_us()) == ["m2"]
    finally:
        await connection.close()


async def test_revoked_licence_and_key_stay_revoked(own_dsn: str, tmp_path: Path) -> None:
    before = await seeded(own_dsn, tmp_path)
    connection = await asyncpg.connect(own_dsn)
    try:
        await connection.execute("UPDATE licence SET revoked_at = now()")
        await connection.execute("UPDATE api_key SET revoked_at = now()")
        await connection.execute("UPDATE admin_key SET revoked_at = now()")
        after = await seeded(own_dsn, tmp_path)
        assert after.api_key != before.api_key and after.admin_key != before.admin_key
        assert after.licence_path.name == "lic-demo-2.dsse.json"
        assert await connection.fetchval("SELECT revoked_at IS NOT NULL FROM licence WHERE licence_id = 'lic-demo'")
        assert models_of((await read_snapshot(connection)).licences, "demo", now_us()) == ["m1"]
        assert await seeded(own_dsn, tmp_path) == after
    finally:
        await connection.close()


async def test_demo_month_can_be_looked_at_at_once_and_an_issuer_that_was_entered_stays(
    own_dsn: str, tmp_path: Path
) -> None:
    await seeded(own_dsn, tmp_path)
    connection = await asyncpg.connect(own_dsn)
    try:
        draft = await preview(connection, "demo", "2026-11")
        assert is_registration_number(draft.issuer.registration_number)
        assert (draft.recipient.name, draft.total_yen) == ("Demo 株式会社", 0)
        await connection.execute("UPDATE billing_issuer SET name = '本物株式会社'")
        await seeded(own_dsn, tmp_path)
        assert (await preview(connection, "demo", "2026-11")).issuer.name == "本物株式会社"
    finally:
        await connection.close()
