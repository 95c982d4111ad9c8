"""How a tenant's limits stand at this moment, at every level, with the raises in force. Holds nothing."""

import asyncio
from collections.abc import Iterator
from typing import Any

from gateway.clock import Clock
from gateway.faults import Fault
from gateway.identity.access import Access
from gateway.licensing.index import Grant
from gateway.limits.holds import Holds, period_of
from gateway.limits.levels import LimitLevel
from gateway.limits.report import Scene, report
from gateway.tenancy.snapshot import Snapshot, Tenant
from gateway.tenancy.watch import POLL_S, SnapshotWatch

LOOKS_MAX = 4


class LimitView:
    """Tells limits by the process's own snapshot and the store that limits are kept in. Raises `Fault` where one of
    them cannot be gone by."""

    def __init__(self, watch: SnapshotWatch, holds: Holds, clock: Clock) -> None:
        self._watch = watch
        self._holds = holds
        self._clock = clock

    async def snapshot(self, epoch: int) -> Snapshot:
        """What gateways decide by, at `epoch` of the book or later."""
        for _ in range(LOOKS_MAX):
            snapshot = self._watch.current()
            if snapshot.epoch >= epoch:
                return snapshot
            await asyncio.sleep(POLL_S)
        raise Fault("store_unavailable", retry_after_s=1, internal="the book is newer than the snapshot")

    async def of_credential(self, tenant: Tenant, access: Access) -> dict[str, Any]:
        """What limits the requests of a credential: its own, its project's, each grant's, the tenant's."""
        snapshot, now = self._watch.current(), self._clock.now()
        levels = [_own(tenant), *_granted(snapshot, tenant, now)]
        if access.project_id:
            levels += [level for level in _projects(snapshot, tenant) if level.id == access.project_id]
        return await self._told(snapshot, tenant, [*levels, LimitLevel("key", access.credential_id, access.limits)])

    async def of_tenant(self, tenant_id: str) -> dict[str, Any]:
        """All of a tenant's levels; of its credentials those that have limits of their own."""
        tenant = await self._tenant(tenant_id)
        snapshot, now = self._watch.current(), self._clock.now()
        return await self._told(
            snapshot, tenant,
            [_own(tenant), *_granted(snapshot, tenant, now), *_projects(snapshot, tenant),
             *_credentials(snapshot, tenant)],
        )  # fmt: skip

    async def _tenant(self, tenant_id: str) -> Tenant:
        """A tenant that the book has; it may be newer than the snapshot."""
        for _ in range(LOOKS_MAX):
            tenant = self._watch.current().tenants.get(tenant_id)
            if tenant is not None:
                return tenant
            await asyncio.sleep(POLL_S)
        raise Fault("store_unavailable", retry_after_s=1, internal="the tenant is newer than the snapshot")

    async def _told(self, snapshot: Snapshot, tenant: Tenant, levels: list[LimitLevel]) -> dict[str, Any]:
        now = self._clock.now()
        period = period_of(now, tenant.zone)
        now_s, found = await self._holds.look(tenant.tenant_id, levels, period)
        raises = snapshot.raises.get(tenant.tenant_id, {})
        return report(found, Scene(raises, period, tenant.zone, now_s, now))


def _own(tenant: Tenant) -> LimitLevel:
    return LimitLevel("tenant", tenant.tenant_id, tenant.limits)


def _granted(snapshot: Snapshot, tenant: Tenant, now: int) -> Iterator[LimitLevel]:
    index = snapshot.licences.get(tenant.tenant_id)
    for number, grant in enumerate(() if index is None else index.grants):
        if index is not None and not index.revoked >> number & 1 and _in_force(grant, now):
            yield LimitLevel("licence", grant.rule_id, grant.limits)


def _in_force(grant: Grant, now: int) -> bool:
    return grant.not_before <= now < grant.grace_until


def _projects(snapshot: Snapshot, tenant: Tenant) -> list[LimitLevel]:
    found = ((project_id, limits) for (owner, project_id), limits in snapshot.projects.items() if tenant.owns(owner))
    return [LimitLevel("project", project_id, limits) for project_id, limits in sorted(found, key=lambda one: one[0])]


def _credentials(snapshot: Snapshot, tenant: Tenant) -> list[LimitLevel]:
    credentials = snapshot.credentials
    stored = [
        *(key.access for key in credentials.keys.values()),
        *(client.access for client in credentials.clients.values()),
        *(issuer.access for issuer in credentials.issuers.values()),
    ]
    own = (access for access in stored if tenant.owns(access.tenant_id) and access.limits.bounded)
    return [LimitLevel("key", one.credential_id, one.limits) for one in sorted(own, key=lambda one: one.credential_id)]
