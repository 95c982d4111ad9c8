"""The configuration as gateways read it: one bad row stops nobody else, one licence speaks for its own tenant only."""

import json
from typing import Any

import asyncpg
import pytest

from gateway.licensing.decide import models_of
from gateway.tenancy.store import read_snapshot
from tests.conftest import a_tenant
from tests.gateway.test_licence_document import NOW, a_document

_TENANT = (
    "INSERT INTO tenant (tenant_id, legal_name, tokens_month, micro_yen_month, rpm, concurrency)"
    " VALUES ($1, 'x', 1, 1, 1, 1)"
)
_LICENCE = "INSERT INTO licence (licence_id, version, tenant_id, document) VALUES ($1, 1, $2, $3::jsonb)"


async def a_licence(database: Any, tenant_id: str, **changes: Any) -> None:
    licence_id = f"lic-{tenant_id}"
    document = json.loads(a_document(licence_id=licence_id, licensee={"tenant": tenant_id}, **changes))
    await database.execute(_TENANT, tenant_id)
    await database.execute(_LICENCE, licence_id, tenant_id, json.dumps(document))


async def test_one_bad_licence_grants_nothing_and_stops_nobody_else(database: Any) -> None:
    good, bad = a_tenant().tenant_id, a_tenant().tenant_id
    await a_licence(database, good)
    await a_licence(database, bad, grants=[{"id": "名前", "models": ["m1"], "actions": ["chat"]}])
    snapshot = await read_snapshot(database)
    assert models_of(snapshot.licences, good, NOW) == ["m1", "m2"]
    assert models_of(snapshot.licences, bad, NOW) == []


async def test_licence_row_must_be_its_documents_own(database: Any) -> None:
    mine, other = a_tenant().tenant_id, a_tenant().tenant_id
    await database.execute(_TENANT, mine)
    document = a_document(licence_id="lic-x", licensee={"tenant": other})
    with pytest.raises(asyncpg.CheckViolationError):
        await database.execute(_LICENCE, "lic-x", mine, document)


@pytest.mark.parametrize("model", ["モデル", "m" * 65, "a b", ""])
async def test_model_name_that_no_audit_record_can_hold_is_refused(database: Any, model: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await database.execute(
            "INSERT INTO upstream (upstream_id, model, base_url, served_model, tier, region, site, profile)"
            " VALUES ('u-bad', $1, 'http://x/v1', 'm', 'edge', 'jp', 's', '{}'::jsonb)",
            model,
        )


async def test_every_change_of_configuration_raises_the_epoch(database: Any) -> None:
    before = (await read_snapshot(database)).epoch
    await a_licence(database, a_tenant().tenant_id)
    assert (await read_snapshot(database)).epoch == before + 2
