"""Requests under way, judged again whenever the configuration is read: what is no longer permitted is ended."""

import asyncio
from dataclasses import dataclass

from gateway.clock import Clock
from gateway.edge.exchange import Exchange
from gateway.faults import Fault
from gateway.identity.service import Identifier
from gateway.licensing.decide import decide
from gateway.tenancy.snapshot import Snapshot

_SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True)
class _Run:
    exchange: Exchange
    task: "asyncio.Task[object]"


class Running:
    """The dispatched requests of a process."""

    def __init__(self, identifier: Identifier, clock: Clock) -> None:
        self._identifier = identifier
        self._clock = clock
        self._runs: dict[str, _Run] = {}
        self._reviewed: Snapshot | None = None
        self._reviewed_at = 0

    def enter(self, exchange: Exchange, snapshot: Snapshot) -> None:
        """The current task works on `exchange` from now on. Raises `Fault("revoked")` when `snapshot` is a later one
        than it was decided by and permits it no more."""
        task = asyncio.current_task()
        assert task is not None
        if snapshot is not exchange.snapshot:
            fault = self._objection(exchange, snapshot, self._clock.now())
            if fault is not None:
                raise fault
        self._runs[exchange.request_id] = _Run(exchange, task)

    def leave(self, exchange: Exchange) -> None:
        """It no longer does. No effect on one that never entered."""
        self._runs.pop(exchange.request_id, None)

    def review(self, snapshot: Snapshot) -> None:
        """End every request whose credential or grant is no longer in force: its outcome is `revoked`, and what was
        used until then is metered. Without a change only what time does is looked at, once a second."""
        now = self._clock.now()
        if snapshot is self._reviewed and now - self._reviewed_at < _SECOND_US:
            return
        self._reviewed, self._reviewed_at = snapshot, now
        for run in list(self._runs.values()):
            fault = self._objection(run.exchange, snapshot, now)
            if fault is not None:
                self.leave(run.exchange)
                run.exchange.revoked = fault
                run.task.cancel()

    def _objection(self, exchange: Exchange, snapshot: Snapshot, now: int) -> Fault | None:
        principal, ask, grant = exchange.principal, exchange.ask, exchange.grant
        assert principal is not None and ask is not None and grant is not None
        if not self._identifier.still_valid(principal, snapshot.credentials, now):
            return Fault("revoked", rule=f"key:{principal.key_id}", licence=grant.licence, reason="credential")
        decision = decide(snapshot.licences, ask, now)
        if decision.allowed:
            return None
        if decision.refusal in ("prohibited", "exclusive_to_another"):  # the rule that forbids it is what has changed
            return Fault("revoked", rule=decision.rule_id, licence=decision.licence, reason=decision.refusal)
        # What permitted the request is no more, whichever of the tenant's licences came closest to permitting it now.
        return Fault("revoked", rule=grant.rule_id, licence=grant.licence, reason=decision.refusal)
