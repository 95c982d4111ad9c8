"""Tenants, keys, licences, engines and prices of a measurement, written into the book by the code of one revision.

`python loadtests/seed.py < plan.json` prints `{tenant: key}`. It is a program so that another revision of the gateway
(`PYTHONPATH` names its tree) makes the keys in its own way.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from gateway.identity.keys import new_key
from gateway.identity.secrets import load_peppers
from gateway.tenancy.parties import ISSUER, LocalParties

TOKENS_MONTH, MICRO_YEN_MONTH, RPM, CONCURRENCY = 10**9, 10**15, 10**6, 4_096
CONTEXT_TOKENS = 8_192


class SeedTenant(msgspec.Struct, frozen=True):
    """A tenant that may use `models` within these limits (tokens and micro-yen per month, requests per minute)."""

    tenant_id: str
    models: list[str]
    tokens_month: int = TOKENS_MONTH
    micro_yen_month: int = MICRO_YEN_MONTH
    rpm: int = RPM
    concurrency: int = CONCURRENCY


class SeedEngine(msgspec.Struct, frozen=True):
    """An upstream at `base_url` that serves `model`."""

    model: str
    base_url: str
    witness_url: str | None = None


class SeedPlan(msgspec.Struct, frozen=True):
    """Everything that is to be there."""

    database_url: str
    data_dir: str
    tenants: list[SeedTenant]
    engines: list[SeedEngine]


async def seed(plan: SeedPlan) -> dict[str, str]:
    """Write the rows; returns a new key per tenant. Raises `asyncpg.PostgresError` for rows that are there already."""
    pepper = load_peppers(Path(plan.data_dir)).current
    parties = LocalParties(Path(plan.data_dir))
    keys: dict[str, str] = {}
    connection = await asyncpg.connect(plan.database_url)
    try:
        async with connection.transaction():
            for engine in plan.engines:
                await _engine(connection, engine)
            for tenant in plan.tenants:
                await _tenant(connection, parties, tenant)
                key = new_key("bench", pepper)
                await connection.execute(
                    "INSERT INTO api_key (key_id, tenant_id, mac, pepper_id) VALUES ($1, $2, $3, $4)",
                    key.key_id, tenant.tenant_id, key.mac, key.pepper_id,
                )  # fmt: skip
                keys[tenant.tenant_id] = key.text
    finally:
        await connection.close()
    return keys


async def _engine(connection: Any, engine: SeedEngine) -> None:
    profile = {"context_tokens": CONTEXT_TOKENS, "max_output_tokens": CONTEXT_TOKENS, "modalities": ["text"]}
    await connection.execute(
        "INSERT INTO upstream (upstream_id, model, base_url, served_model, witness_url, tier, region, site, profile)"
        " VALUES ($1, $2, $3, $2, $4, 'heavy', 'jp', 'local', $5::jsonb)",
        f"bench-{engine.model}", engine.model, engine.base_url, engine.witness_url, json.dumps(profile),
    )  # fmt: skip
    await connection.execute(
        "INSERT INTO rate_card (rate_card_id, model, effective_from, input_price, cached_input_price, output_price)"
        " VALUES ($1, $2, timestamptz '2026-01-01 00:00+09', 120, 60, 480) ON CONFLICT (rate_card_id) DO NOTHING",
        f"bench-{engine.model}", engine.model,
    )  # fmt: skip


async def _tenant(connection: Any, parties: LocalParties, tenant: SeedTenant) -> None:
    await connection.execute(
        "INSERT INTO tenant (tenant_id, legal_name, tokens_month, micro_yen_month, rpm, concurrency)"
        " VALUES ($1, $1, $2, $3, $4, $5)",
        tenant.tenant_id, tenant.tokens_month, tenant.micro_yen_month, tenant.rpm, tenant.concurrency,
    )  # fmt: skip
    licence = {
        "v": 1,
        "licence_id": f"lic-{tenant.tenant_id}",
        "version": 1,
        "issuer": ISSUER,
        "licensee": {"tenant": tenant.tenant_id, "legal_name": tenant.tenant_id, "class": "public", "country": "JP"},
        "validity": {"not_before": "2026-01-01T00:00:00+09:00", "not_after": "2099-01-01T00:00:00+09:00"},
        "grants": [{"id": "g1", "models": tenant.models, "actions": ["chat", "completion"]}],
    }
    await parties.store(connection, licence)


if __name__ == "__main__":
    given = msgspec.json.decode(sys.stdin.buffer.read(), type=SeedPlan)
    print(json.dumps(asyncio.run(seed(given))))
