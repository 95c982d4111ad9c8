"""Tenants, keys, licences and models of the tests, written into the book as `gateway.tenancy.seed` does it."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec

from gateway.identity.keys import new_key
from gateway.identity.secrets import load_peppers
from gateway.tenancy.parties import LocalParties
from gateway.upstreams.types import Profile
from tests.e2e.stack import Stack, until
from tests.licences import a_licence

INPUT_PRICE, CACHED_INPUT_PRICE, OUTPUT_PRICE = 120, 60, 480
CHAT_AND_COMPLETION = ("chat", "completion")


@dataclass(frozen=True)
class Tenant:
    """A tenant of a test."""

    tenant_id: str
    key: str
    key_id: str
    licence_id: str

    @property
    def headers(self) -> dict[str, str]:
        """What authenticates it."""
        return {"authorization": f"Bearer {self.key}"}


@dataclass(frozen=True)
class Terms:
    """What a tenant may do: limits as in the table `tenant`, validity relative to now."""

    models: tuple[str, ...] = ("scripted-small",)
    actions: tuple[str, ...] = CHAT_AND_COMPLETION
    tokens_month: int = 10**9
    micro_yen_month: int = 10**15
    rpm: int = 10**6
    concurrency: int = 4_096
    starts: timedelta = timedelta(minutes=-5)
    ends: timedelta = timedelta(days=30)
    grant: Mapping[str, Any] = field(default_factory=dict)


ALL = Terms()


async def add_tenant(stack: Stack, terms: Terms = ALL, *, name: str = "t", **licence: Any) -> Tenant:
    """A tenant with a key and a licence that the gateway already knows when this returns; `licence` replaces parts of
    its document."""
    tenant_id = f"{name}-{secrets.token_hex(4)}"
    licence_id = f"lic-{tenant_id}"
    connection = await stack.connect()
    try:
        async with connection.transaction():
            await connection.execute(
                "INSERT INTO tenant (tenant_id, legal_name, tokens_month, micro_yen_month, rpm, concurrency)"
                " VALUES ($1, $1, $2, $3, $4, $5)",
                tenant_id, terms.tokens_month, terms.micro_yen_month, terms.rpm, terms.concurrency,
            )  # fmt: skip
            await add_licence(stack, connection, tenant_id, licence_id, terms, **licence)
            key = await add_key(stack, connection, tenant_id)
    finally:
        await connection.close()
    tenant = Tenant(tenant_id, key[0], key[1], licence_id)
    await known(stack, tenant)
    return tenant


async def add_licence(
    stack: Stack, connection: Any, tenant_id: str, licence_id: str, terms: Terms, version: int = 1, **changes: Any
) -> dict[str, Any]:
    """A signed licence of one grant; `changes` replace parts of the document, which is returned."""
    now = datetime.now(UTC)
    grant = {"id": "g1", "models": list(terms.models), "actions": list(terms.actions), **terms.grant}
    document = a_licence(
        tenant_id, licence_id, [grant], now + terms.starts, now + terms.ends, version=version, **changes
    )
    await LocalParties(stack.data_dir).store(connection, document)
    return document


async def add_key(stack: Stack, connection: Any, tenant_id: str, expires_at: datetime | None = None) -> tuple[str, str]:
    """A key of a tenant: its text and its id."""
    key = new_key("test", load_peppers(stack.data_dir).current)
    await connection.execute(
        "INSERT INTO api_key (key_id, tenant_id, mac, pepper_id, expires_at) VALUES ($1, $2, $3, $4, $5)",
        key.key_id, tenant_id, key.mac, key.pepper_id, expires_at,
    )  # fmt: skip
    return key.text, key.key_id


async def add_model(
    stack: Stack,
    name: str,
    *,
    served_model: str = "",
    engine_root: str = "",
    context: int = 8_192,
    images: int = 0,
    prices: tuple[int, int, int] = (INPUT_PRICE, CACHED_INPUT_PRICE, OUTPUT_PRICE),
) -> None:
    """A model of the scripted engine (the stack's own one by default) with a price; idempotent."""
    root = engine_root or await stack.engine_root("scripted-small")
    modalities = ("text", "image") if images else ("text",)
    profile = Profile(context_tokens=context, max_output_tokens=context, modalities=modalities, image_tokens=images)
    connection = await stack.connect()
    try:
        async with connection.transaction():
            await connection.execute(
                "INSERT INTO upstream"
                " (upstream_id, model, base_url, served_model, witness_url, tier, region, site, profile)"
                " VALUES ($1, $1, $2, $3, $4, 'heavy', 'jp', 'local', $5::jsonb) ON CONFLICT DO NOTHING",
                name, f"{root}/v1", served_model or name, f"{root}/witness", msgspec.json.encode(profile).decode(),
            )  # fmt: skip
            await connection.execute(
                "INSERT INTO rate_card"
                " (rate_card_id, model, effective_from, input_price, cached_input_price, output_price)"
                " VALUES ($1, $2, timestamptz '2026-01-01 00:00+09', $3, $4, $5) ON CONFLICT DO NOTHING",
                f"rc-{name}", name, *prices,
            )  # fmt: skip
    finally:
        await connection.close()


async def known(stack: Stack, tenant: Tenant) -> None:
    """Returns once the gateway knows the tenant's key."""
    async with httpx.AsyncClient(trust_env=False) as client:

        async def find() -> bool | None:
            answer = await client.get(f"{stack.base_url}/models", headers=tenant.headers)
            return True if answer.status_code == 200 else None

        await until(find, 3.0, "the gateway does not know the new key")
