"""The demo tenant of `make up`: a tenant, a signed licence, an upstream, a rate card, and keys that stay the same."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from billing.invoices.parties import Issuer, put_issuer, put_party
from billing.invoices.types import Party
from gateway.control.bootstrap import ensure_admin_key
from gateway.identity.keys import key_id_of, new_key
from gateway.identity.secrets import load_peppers, write_private
from gateway.licensing.registers import REGISTERS
from gateway.tenancy.parties import ISSUER, LocalParties
from gateway.upstreams.types import Profile

TENANT_ID = "demo"
LEGAL_NAME = "Demo 株式会社"
LICENCE_ID = "lic-demo"
UPSTREAM_ID = "demo-engine"
# Yen per 1M tokens of the demo's rate card.
INPUT_PRICE, CACHED_INPUT_PRICE, OUTPUT_PRICE = 120, 60, 480
TOKENS_MONTH, MICRO_YEN_MONTH = 10**9, 10**15
RPM, CONCURRENCY = 10**6, 4_096
PURPOSE, DATA_CLASS = "general", "restricted"  # of the demo key's requests that state none
RENEW_BEFORE = timedelta(days=30)
# A number of the right form for documents that nobody pays by.
ISSUER_ID, REGISTRATION_NUMBER = "main", "T8700110005901"


@dataclass(frozen=True, slots=True)
class DemoAccess:
    """What a first request and a first administrator need."""

    tenant_id: str
    api_key: str
    admin_key: str
    model: str
    licence_path: Path
    trust_path: Path


async def seed_demo(
    dsn: str, data_dir: Path, *, upstream_base_url: str, witness_url: str | None, model: dict[str, Any], engine: str
) -> DemoAccess:
    """Create or refresh the demo's rows. Idempotent: a second call with the same arguments changes nothing but the
    licence's end.

    `model` is a catalogue entry: `id`, `tier`, `region`, `site`, and a `profile` (see `gateway.upstreams.types`);
    `served_model` where the engine knows it by another name. `engine` names the kind of engine for the record.
    """
    profile = msgspec.convert(model["profile"], Profile)
    parties = LocalParties(data_dir)
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await _tenant(connection)
            await _upstream(connection, upstream_base_url, witness_url, {**model, "engine": engine}, profile)
            licence_id, envelope = await _licence(connection, parties, model["id"])
            await _rate_card(connection, model["id"])
            await _parties(connection)
            api_key = await _key(connection, data_dir)
            admin_key = await ensure_admin_key(connection, data_dir)
        trust_path = await parties.write_trust(connection)
    finally:
        await connection.close()
    path = data_dir / "licences" / f"{licence_id}.dsse.json"
    write_private(path, envelope)
    return DemoAccess(TENANT_ID, api_key, admin_key, model["id"], path, trust_path)


async def _tenant(connection: Any) -> None:
    await connection.execute(
        "INSERT INTO tenant (tenant_id, legal_name, tokens_month, micro_yen_month, rpm, concurrency)"
        " VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (tenant_id) DO NOTHING",
        TENANT_ID, LEGAL_NAME, TOKENS_MONTH, MICRO_YEN_MONTH, RPM, CONCURRENCY,
    )  # fmt: skip


async def _licence(connection: Any, parties: LocalParties, model: str) -> tuple[str, str]:
    """Id and envelope of the demo licence: the stored one if it covers `model` for another month, else the next.
    A revoked one stays revoked; then another begins (`lic-demo-2`, …)."""
    rows = await connection.fetch(
        "SELECT DISTINCT ON (licence_id) licence_id, version, envelope, document::text AS document,"
        " bool_or(revoked_at IS NOT NULL) OVER (PARTITION BY licence_id) AS revoked"
        " FROM licence WHERE tenant_id = $1 AND licence_id LIKE $2 ORDER BY licence_id, version DESC",
        TENANT_ID, f"{LICENCE_ID}%",
    )  # fmt: skip
    now = datetime.now(UTC).replace(microsecond=0)
    row = next((row for row in rows if not row["revoked"]), None)
    if row is None:
        licence_id = f"{LICENCE_ID}-{len(rows) + 1}" if rows else LICENCE_ID
        return licence_id, await parties.store(connection, demo_licence(licence_id, model, now, None))
    document: dict[str, Any] = json.loads(row["document"])
    ends = datetime.fromisoformat(document["validity"]["not_after"])
    covered = document["grants"][0]["models"] == [model] and ends > now + RENEW_BEFORE
    if row["envelope"] is not None and covered:
        return row["licence_id"], row["envelope"]
    return row["licence_id"], await parties.store(
        connection, demo_licence(row["licence_id"], model, now, int(row["version"]))
    )


def demo_licence(licence_id: str, model: str, now: datetime, supersedes: int | None) -> dict[str, Any]:
    """The demo's licence for a year from `now`: chat and completions with one model, for every purpose."""
    return {
        "v": 1,
        "licence_id": licence_id,
        "version": (supersedes or 0) + 1,
        "supersedes": supersedes,
        "issuer": ISSUER,
        "licensee": {"tenant": TENANT_ID, "legal_name": LEGAL_NAME, "class": "public", "country": "JP"},
        "validity": {
            "not_before": (now - timedelta(minutes=5)).isoformat(),
            "not_after": (now + timedelta(days=365)).isoformat(),
            "grace_days": 0,
            "notice_days": RENEW_BEFORE.days,
        },
        "grants": [
            {
                "id": "g1",
                "models": [model],
                "actions": ["chat", "completion"],
                "purposes": ["*"],
                "data_classes": sorted(REGISTERS.data_classes),
                "regions": ["*"],
                "tiers": ["*"],
            }
        ],
    }


async def _upstream(
    connection: Any, base_url: str, witness_url: str | None, model: dict[str, Any], profile: Profile
) -> None:
    await connection.execute(
        "INSERT INTO upstream (upstream_id, model, base_url, served_model, witness_url, tier, region, site, profile,"
        " operator, country, accelerator, supply_chain)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb, 'local', 'JP', 'cpu', $10::jsonb)"
        " ON CONFLICT (upstream_id) DO UPDATE SET model = excluded.model, base_url = excluded.base_url,"
        " served_model = excluded.served_model, witness_url = excluded.witness_url, tier = excluded.tier,"
        " region = excluded.region, site = excluded.site, profile = excluded.profile,"
        " supply_chain = excluded.supply_chain",
        UPSTREAM_ID, model["id"], base_url, model.get("served_model", model["id"]), witness_url, model["tier"],
        model["region"], model["site"], msgspec.json.encode(profile).decode(), json.dumps({"engine": model["engine"]}),
    )  # fmt: skip


async def _rate_card(connection: Any, model: str) -> None:
    await connection.execute(
        "INSERT INTO rate_card (rate_card_id, model, effective_from, input_price, cached_input_price, output_price)"
        " VALUES ($1, $2, timestamptz '2026-01-01 00:00+09', $3, $4, $5) ON CONFLICT (rate_card_id) DO NOTHING",
        f"demo-{model}-2026", model, INPUT_PRICE, CACHED_INPUT_PRICE, OUTPUT_PRICE,
    )  # fmt: skip


async def _parties(connection: Any) -> None:
    """Who invoices the demo tenant, unless somebody is entered already."""
    if await connection.fetchval("SELECT 1 FROM billing_issuer LIMIT 1") is not None:
        return
    issuer = Party(
        "関所デモ株式会社", REGISTRATION_NUMBER, REGISTRATION_NUMBER[1:], "100-0001", "東京都千代田区千代田1-1",
        email="billing@sekisho.example", bank_account="見本銀行 本店営業部 普通 0000000 カ）セキシヨデモ",
    )  # fmt: skip
    await put_issuer(connection, Issuer(ISSUER_ID, issuer))
    recipient = Party(
        LEGAL_NAME, postal_code="460-0001", address="愛知県名古屋市中区三の丸3-1-1", email="ap@demo.example"
    )
    await put_party(connection, TENANT_ID, ISSUER_ID, recipient)


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
        "INSERT INTO api_key (key_id, tenant_id, mac, pepper_id, label, purpose, data_class)"
        " VALUES ($1, $2, $3, $4, 'make up', $5, $6)",
        key.key_id, TENANT_ID, key.mac, key.pepper_id, PURPOSE, DATA_CLASS,
    )  # fmt: skip
    write_private(path, key.text)
    return key.text
