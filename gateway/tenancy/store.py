"""Reads the configuration from PostgreSQL. The only SQL of this room."""

import logging
from datetime import datetime
from typing import Any

import msgspec

from billing.rating import RateCard
from gateway.identity.service import ApiKey
from gateway.licensing.document import StoredLicence, compile_index, parse_document
from gateway.tenancy.snapshot import Limits, Snapshot, Tenant
from gateway.upstreams.types import Profile, Upstream

_LOG = logging.getLogger(__name__)


def _micros(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp()) * 1_000_000 + at.microsecond


async def read_epoch(connection: Any) -> int:
    """The number that every change of configuration raises."""
    rows = await connection.fetch("SELECT epoch FROM config_epoch")
    return int(rows[0]["epoch"])


async def read_snapshot(connection: Any) -> Snapshot:
    """The whole configuration. The epoch is read first, so a change meanwhile only causes one more reading."""
    epoch = await read_epoch(connection)
    keys = await _keys(connection)  # before the tenants: then no key is without its tenant
    return Snapshot(
        epoch=epoch,
        tenants=await _tenants(connection),
        keys=keys,
        licences=compile_index(await _licences(connection)),
        upstreams=await _upstreams(connection),
        rate_cards=await _rate_cards(connection),
    )


async def _tenants(connection: Any) -> dict[str, Tenant]:
    rows = await connection.fetch("SELECT tenant_id, zone, tokens_month, micro_yen_month, rpm, concurrency FROM tenant")
    return {
        row["tenant_id"]: Tenant(
            row["tenant_id"],
            row["zone"],
            Limits(row["tokens_month"], row["micro_yen_month"], row["rpm"], row["concurrency"]),
        )
        for row in rows
    }


async def _keys(connection: Any) -> dict[str, ApiKey]:
    rows = await connection.fetch(
        "SELECT key_id, tenant_id, mac, pepper_id, purpose, data_class, expires_at, revoked_at FROM api_key"
    )
    return {
        row["key_id"]: ApiKey(
            row["key_id"], row["tenant_id"], bytes(row["mac"]), row["pepper_id"], row["purpose"], row["data_class"],
            _micros(row["expires_at"]), _micros(row["revoked_at"]),
        )
        for row in rows
    }  # fmt: skip


async def _licences(connection: Any) -> list[StoredLicence]:
    rows = await connection.fetch("SELECT licence_id, document::text AS document, signed, revoked_at FROM licence")
    licences = []
    for row in rows:
        try:
            document = parse_document(row["document"])
        except ValueError as error:  # msgspec's errors too; one bad licence grants nothing and stops nobody else
            _LOG.error("licence %s is not compiled: %s", row["licence_id"], error)
            continue
        licences.append(StoredLicence(document, row["signed"], row["revoked_at"] is not None))
    return licences


async def _upstreams(connection: Any) -> dict[str, tuple[Upstream, ...]]:
    rows = await connection.fetch(
        "SELECT upstream_id, model, base_url, served_model, witness_url, tier, region, site,"
        " profile::text AS profile, created_at"
        " FROM upstream ORDER BY upstream_id"
    )
    by_model: dict[str, tuple[Upstream, ...]] = {}
    for row in rows:
        try:
            profile = msgspec.json.decode(row["profile"], type=Profile)
        except ValueError as error:  # one bad row serves nobody and stops nobody else
            _LOG.error("upstream %s is not used: %s", row["upstream_id"], error)
            continue
        upstream = Upstream(**{**dict(row), "profile": profile, "created_at": _micros(row["created_at"]) or 0})
        by_model[upstream.model] = (*by_model.get(upstream.model, ()), upstream)
    return by_model


async def _rate_cards(connection: Any) -> dict[str, tuple[RateCard, ...]]:
    rows = await connection.fetch(
        "SELECT rate_card_id, model, effective_from, effective_to, input_price, cached_input_price, output_price"
        " FROM rate_card ORDER BY model, effective_from DESC"
    )
    by_model: dict[str, tuple[RateCard, ...]] = {}
    for row in rows:
        card = RateCard(
            row["rate_card_id"], row["model"], _micros(row["effective_from"]) or 0, _micros(row["effective_to"]),
            row["input_price"], row["cached_input_price"], row["output_price"],
        )  # fmt: skip
        by_model[card.model] = (*by_model.get(card.model, ()), card)
    return by_model
