"""Reads the configuration from PostgreSQL, after the first time only what changed. The only SQL of this room."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from billing.prices_store import CARD_COLUMNS, card_of
from billing.rating import RateCard
from gateway.identity.credentials import ApiKey, Credentials, OAuthClient, OidcIssuer
from gateway.licensing.findings import Finding
from gateway.licensing.trust import Trust, TrustKey
from gateway.limits.levels import Limits, Raise
from gateway.priority.claims import Priorities
from gateway.priority.policy import open_policy, verify_policy
from gateway.priority.register import Contribution, Lineage, Policy, Register
from gateway.tenancy.licences import LicenceBook
from gateway.tenancy.rows import (
    client_of,
    contribution_of,
    issuer_of,
    key_of,
    licence_of,
    limits_of,
    lineage_of,
    raise_of,
    tenant_of,
    trust_key_of,
    upstream_of,
)
from gateway.tenancy.snapshot import Snapshot, Tenant
from gateway.upstreams.types import Upstream

_LOG = logging.getLogger(__name__)
_Value = TypeVar("_Value")

TURN_S_MAX = 0.005


@dataclass(frozen=True, slots=True)
class Epoch:
    """How far the book's configuration has come. `generation` moves when rows were deleted and all must be read anew;
    `highest_at` is the highest stored time in microseconds since the epoch."""

    epoch: int
    generation: int
    highest_at: int


_EPOCH = """
SELECT e.epoch, e.generation, (extract(epoch FROM c.highest_at) * 1000000)::bigint AS highest_at
FROM config_epoch e, clock_mark c
"""

_ACCESS = (
    "tenant_id, project_id, scopes, models, purposes, cidrs, purpose, data_class, tokens_month, micro_yen_month, rpm,"
    " concurrency, tpm, expires_at, revoked_at"
)

# Rows that point at others come before those: then nothing is read without what it points at.
_TABLES: Mapping[str, str] = {
    "api_key": f"key_id, mac, pepper_id, {_ACCESS}",
    "oauth_client": f"client_id, jwks::text AS jwks, binding, {_ACCESS}",
    "oidc_issuer": f"issuer_id, issuer, audience, binding, {_ACCESS}",
    "licence": "licence_id, version, tenant_id, envelope, parent_licence_id, revoked_at",
    "project": "tenant_id, project_id, tokens_month, micro_yen_month, rpm, concurrency, tpm",
    "limit_raise": "raise_id, tenant_id, level, limit_name, value, starts_at, ends_at, revoked_at",
    "tenant": "tenant_id, zone, sites, tokens_month, micro_yen_month, rpm, concurrency, tpm",
    "trust_key": "key_id, role, party, public_key, not_before, not_after, revoked_at",
    "upstream": (
        "upstream_id, model, model_version, base_url, served_model, witness_url, country, region, site, tier,"
        " profile::text AS profile, created_at, retired_at"
    ),
    "rate_card": CARD_COLUMNS,
    "contribution": "contribution_id, hojin_bangou, contributed_at, withdrawn_at",
    "model_lineage": "model, model_version, origin, contributions",
    "priority_policy": "version, envelope",
}


def _changed(table: str) -> str:
    return f"SELECT {_TABLES[table]} FROM {table} WHERE changed_epoch > $1"  # noqa: S608 # names of our own


async def read_epoch(connection: Any) -> Epoch:
    """The numbers that every change of configuration raises, and the highest stored time."""
    rows = await connection.fetch(_EPOCH)
    return Epoch(**dict(rows[0]))


async def read_trust(connection: Any) -> Trust:
    """All keys that may sign licences, or once might."""
    keys = [trust_key_of(row) for row in await connection.fetch(_changed("trust_key"), -1)]
    return Trust({key.key_id: key for key in keys})


async def read_register(connection: Any) -> Register:
    """All contributions, lineages, and policies that verify."""
    book = _RegisterBook()
    rows = {table: await connection.fetch(_changed(table), -1) for table in _RegisterBook.tables}
    book.take(rows, [trust_key_of(row) for row in await connection.fetch(_changed("trust_key"), -1)])
    return book.register


class _RegisterBook:
    """What priority is judged by, as it was read. A policy that does not verify is not in force, and is logged."""

    tables = ("contribution", "model_lineage", "priority_policy")

    def __init__(self) -> None:
        self._contributions: dict[str, Contribution] = {}
        self._lineages: dict[tuple[str, str], Lineage] = {}
        self._envelopes: dict[int, str] = {}
        self._keys: dict[str, TrustKey] = {}
        self.register = Register()

    def take(self, rows: Mapping[str, list[Any]], keys: Iterable[TrustKey]) -> None:
        """Add or replace rows and keys."""
        taken = {key.key_id: key for key in keys}
        if not taken and not any(rows[table] for table in self.tables):
            return
        self._keys.update(taken)
        _put(self._contributions, rows["contribution"], "contribution_id", contribution_of)
        self._lineages.update(((row["model"], row["model_version"]), lineage_of(row)) for row in rows["model_lineage"])
        self._envelopes.update((row["version"], row["envelope"]) for row in rows["priority_policy"])
        policies = sorted(self._policies(), key=lambda policy: (policy.effective_from, policy.version))
        self.register = Register(dict(self._contributions), dict(self._lineages), tuple(policies))

    def _policies(self) -> Iterator[Policy]:
        trust = Trust(self._keys)
        for version, envelope in sorted(self._envelopes.items()):
            try:
                sealed = open_policy(envelope)
                verify_policy(sealed, trust)
                yield sealed.document.policy
            except Finding as finding:
                _LOG.error("priority policy %d is not in force: %s %s", version, finding.code, finding.detail)


class Configuration:
    """The rows a process has read, and the snapshots made of them. A reading takes only rows of a later epoch: the
    epoch's lock makes them visible in order, so none can be missed."""

    def __init__(self) -> None:
        self._known = Epoch(-1, -1, 0)
        self._clear()

    def _clear(self) -> None:
        self._tenants: dict[str, Tenant] = {}
        self._projects: dict[tuple[str, str], Limits] = {}
        self._raises: dict[str, tuple[str, str, Raise]] = {}
        self._keys: dict[str, ApiKey] = {}
        self._clients: dict[str, OAuthClient] = {}
        self._issuers: dict[str, OidcIssuer] = {}
        self._upstreams: dict[str, Upstream] = {}
        self._cards: dict[str, RateCard] = {}
        self._licences = LicenceBook()
        self._priority = _RegisterBook()

    def stale(self, epoch: Epoch) -> bool:
        """Whether there is anything to read."""
        return (epoch.epoch, epoch.generation) != (self._known.epoch, self._known.generation)

    async def read(self, connection: Any) -> Snapshot:
        """The configuration as it is now. What changes meanwhile is read again next time."""
        epoch = await read_epoch(connection)
        since = self._known.epoch
        if epoch.generation != self._known.generation:
            self._clear()
            since = -1
        rows = {table: await connection.fetch(_changed(table), since) for table in _TABLES}
        await self._take(rows)
        self._known = epoch
        return Snapshot(
            epoch=epoch.epoch,
            tenants=dict(self._tenants),
            projects=dict(self._projects),
            raises=_by_tenant(self._raises.values()),
            credentials=Credentials(
                dict(self._keys), dict(self._clients), {issuer.issuer: issuer for issuer in self._issuers.values()}
            ),
            licences=self._licences.index,
            upstreams=_by_model(self._upstreams.values()),
            rate_cards=_cards_by_model(self._cards.values()),
            priorities=Priorities(self._priority.register, self._licences.windows, self._licences.tenants),
        )

    async def _take(self, rows: Mapping[str, list[Any]]) -> None:
        known = _catalogue(self._upstreams.values())
        _put(self._tenants, rows["tenant"], "tenant_id", tenant_of)
        self._projects.update(((row["tenant_id"], row["project_id"]), limits_of(row)) for row in rows["project"])
        _put(self._raises, rows["limit_raise"], "raise_id", raise_of)
        _put(self._keys, rows["api_key"], "key_id", key_of)
        _put(self._clients, rows["oauth_client"], "client_id", client_of)
        _put(self._issuers, rows["oidc_issuer"], "issuer_id", issuer_of)
        _put(self._cards, rows["rate_card"], "rate_card_id", card_of)
        _put(self._upstreams, rows["upstream"], "upstream_id", upstream_of)
        keys = [trust_key_of(row) for row in rows["trust_key"]]
        self._licences.take_keys(keys)
        self._priority.take(rows, keys)
        self._licences.take_register(self._priority.register)
        self._licences.take_rows(licence_of(row) for row in rows["licence"])
        catalogue = _catalogue(self._upstreams.values())
        if catalogue != known:
            self._licences.take_catalogue(catalogue)
        await _in_turns(self._licences.compile())


def _put(into: dict[str, _Value], rows: Iterable[Any], key: str, value_of: Callable[[Any], _Value | None]) -> None:
    """Replace what `rows` are now. A row that means nothing serves nobody, and stops nobody else."""
    for row in rows:
        into.pop(row[key], None)
        try:
            value = value_of(row)
        except (ValueError, TypeError, OverflowError) as error:
            _LOG.error("%s %s is not used: %s", key.removesuffix("_id"), row[key], error)
            continue
        if value is not None:
            into[row[key]] = value


async def _in_turns(steps: Iterator[None]) -> None:
    """Walk `steps`, leaving the loop to requests every few milliseconds."""
    began = time.monotonic()
    for _ in steps:
        if time.monotonic() - began > TURN_S_MAX:
            await asyncio.sleep(0)
            began = time.monotonic()


def _catalogue(upstreams: Iterable[Upstream]) -> dict[str, frozenset[str]]:
    versions: dict[str, set[str]] = {}
    for upstream in upstreams:
        versions.setdefault(upstream.model, set()).add(upstream.model_version)
    return {model: frozenset(found) for model, found in versions.items()}


def _by_tenant(raises: Iterable[tuple[str, str, Raise]]) -> dict[str, dict[str, tuple[Raise, ...]]]:
    """Raises by tenant and level."""
    found: dict[str, dict[str, tuple[Raise, ...]]] = {}
    for tenant_id, level, one in raises:
        of_tenant = found.setdefault(tenant_id, {})
        of_tenant[level] = (*of_tenant.get(level, ()), one)
    return found


def _by_model(upstreams: Iterable[Upstream]) -> dict[str, tuple[Upstream, ...]]:
    """Newest version first, then by id."""
    by_model: dict[str, list[Upstream]] = {}
    for upstream in upstreams:
        by_model.setdefault(upstream.model, []).append(upstream)
    return {
        model: tuple(
            sorted(found, key=lambda one: ([-int(part) for part in one.model_version.split(".")], one.upstream_id))
        )
        for model, found in by_model.items()
    }


def _cards_by_model(cards: Iterable[RateCard]) -> dict[str, tuple[RateCard, ...]]:
    """A tenant's own before everybody's, then what began last."""
    by_model: dict[str, list[RateCard]] = {}
    for card in cards:
        by_model.setdefault(card.model, []).append(card)
    return {
        model: tuple(sorted(found, key=lambda card: (card.tenant_id is None, -card.effective_from, card.rate_card_id)))
        for model, found in by_model.items()
    }
