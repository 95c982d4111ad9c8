"""The demo tenant of `make up`: a tenant, a licence, an upstream, a rate card and a key that stays the same."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from gateway.identity.keys import key_id_of, new_key
from gateway.identity.secrets import load_peppers, write_private
from gateway.upstreams.types import Profile

TENANT_ID = "demo"
LICENCE_ID = "lic-demo"
UPSTREAM_ID = "demo-engine"
# Yen per 1M tokens of the demo's rate card.
INPUT_PRICE, CACHED_INPUT_PRICE, OUTPUT_PRICE = 120, 60, 480
TOKENS_MONTH, MICRO_YEN_MONTH = 10**9, 10**15
RPM, CONCURRENCY = 10**6, 4_096


@dataclass(frozen=True, slots=True)
class DemoAccess:
    """What a first request needs."""

    tenant_id: str
    api_key: str
    model: str
    licence_path: Path


async def seed_demo(
    dsn: str, data_dir: Path, *, upstream_base_url: str, witness_url: str | None, model: dict[str, Any], engine: str
) -> DemoAccess:
    """Create or refresh the demo's rows. Idempotent: a second call with the same arguments changes nothing but the
    licence's end.

    `model` is a catalogue entry: `id`, `tier`, `region`, `site`, and a `profile` (see `gateway.upstreams.types`);
    `served_model` where the engine knows it by another name. `engine` names the kind of engine for the record.
    """
    profile = msgspec.convert(model["profile"], Profile)
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await _tenant(connection)
            document = await _licence(connection, model["id"])
            await _upstream(connection, upstream_base_url, witness_url, model, profile)
            await _rate_card(connection, model["id"])
            api_key = await _key(connection, data_dir)
    finally:
        await connection.close()
    path = data_dir / "licences" / f"{LICENCE_ID}.json"
    write_private(path, json.dumps({**document, "signed": False, "engine": engine}, ensure_ascii=False, indent=2))
    return DemoAccess(TENANT_ID, api_key, model["id"], path)


async def _tenant(connection: Any) -> None:
    await connection.execute(
        "INSERT INTO tenant (tenant_id, legal_name, tokens_month, micro_yen_month, rpm, concurrency)"
        " VALUES ($1, 'Demo 株式会社', $2, $3, $4, $5) ON CONFLICT (tenant_id) DO NOTHING",
        TENANT_ID, TOKENS_MONTH, MICRO_YEN_MONTH, RPM, CONCURRENCY,
    )  # fmt: skip


async def _licence(connection: Any, model: str) -> dict[str, Any]:
    """The newest demo licence if it covers `model` for another month, else its next version."""
    row = await connection.fetchrow(
        "SELECT version, document::text AS document FROM licence WHERE licence_id = $1 ORDER BY version DESC LIMIT 1",
        LICENCE_ID,
    )
    now = datetime.now(UTC).replace(microsecond=0)
    if row is not None:
        document: dict[str, Any] = json.loads(row["document"])
        ends = datetime.fromisoformat(document["validity"]["not_after"])
        if document["grants"][0]["models"] == [model] and ends > now + timedelta(days=30):
            return document
    version = 1 if row is None else row["version"] + 1
    document = {
        "v": 1,
        "licence_id": LICENCE_ID,
        "version": version,
        "licensee": {"tenant": TENANT_ID, "legal_name": "Demo 株式会社", "class": "public", "country": "JP"},
        "validity": {
            "not_before": (now - timedelta(minutes=5)).isoformat(),
            "not_after": (now + timedelta(days=365)).isoformat(),
        },
        "grants": [{"id": "g1", "models": [model], "actions": ["chat", "completion"]}],
    }
    await connection.execute(
        "INSERT INTO licence (licence_id, version, tenant_id, document) VALUES ($1, $2, $3, $4::jsonb)",
        LICENCE_ID, version, TENANT_ID, json.dumps(document),
    )  # fmt: skip
    return document


async def _upstream(
    connection: Any, base_url: str, witness_url: str | None, model: dict[str, Any], profile: Profile
) -> None:
    await connection.execute(
        "INSERT INTO upstream (upstream_id, model, base_url, served_model, witness_url, tier, region, site, profile)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb)"
        " ON CONFLICT (upstream_id) DO UPDATE SET model = excluded.model, base_url = excluded.base_url,"
        " served_model = excluded.served_model, witness_url = excluded.witness_url, tier = excluded.tier,"
        " region = excluded.region, site = excluded.site, profile = excluded.profile",
        UPSTREAM_ID, model["id"], base_url, model.get("served_model", model["id"]), witness_url, model["tier"],
        model["region"], model["site"], msgspec.json.encode(profile).decode(),
    )  # fmt: skip


async def _rate_card(connection: Any, model: str) -> None:
    await connection.execute(
        "INSERT INTO rate_card (rate_card_id, model, effective_from, input_price, cached_input_price, output_price)"
        " VALUES ($1, $2, timestamptz '2026-01-01 00:00+09', $3, $4, $5) ON CONFLICT (rate_card_id) DO NOTHING",
        f"demo-{model}-2026", model, INPUT_PRICE, CACHED_INPUT_PRICE, OUTPUT_PRICE,
    )  # fmt: skip


async def _key(connection: Any, data_dir: Path) -> str:
    """The key of the last start while its row is in force, else a new one."""
    path = data_dir / "secrets" / "demo.key"
    if path.exists():
        known = path.read_text(encoding="ascii").strip()
        row = await connection.fetchrow(
            "SELECT 1 FROM api_key WHERE key_id = $1 AND revoked_at IS NULL", key_id_of(known)
        )
        if row is not None:
            return known
    key = new_key("demo", load_peppers(data_dir).current)
    await connection.execute(
        "INSERT INTO api_key (key_id, tenant_id, mac, pepper_id, label) VALUES ($1, $2, $3, $4, 'make up')",
        key.key_id, TENANT_ID, key.mac, key.pepper_id,
    )  # fmt: skip
    write_private(path, key.text)
    return key.text
