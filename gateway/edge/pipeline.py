"""The whole way of one request, in order. Each stage is a method of its own file's part; this file only walks it."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from billing.journal import Journal
from billing.rating import upper_bound
from gateway.clock import Clock
from gateway.edge.asked import asked, check_choice, named
from gateway.edge.count import PromptCounter
from gateway.edge.deliver import Delivery
from gateway.edge.dispatch import Dispatcher
from gateway.edge.exchange import Exchange
from gateway.edge.headers import response_headers
from gateway.edge.inbound import ClientGone, Inbound
from gateway.edge.openai import error_body
from gateway.edge.parse import Call, chat_call, completion_call, parse_json
from gateway.edge.repeat import Repeated, claimed, replay
from gateway.edge.running import Running
from gateway.edge.settle import Settler
from gateway.faults import Fault
from gateway.identity.scopes import check_scope, model_allowed
from gateway.identity.service import Identifier
from gateway.limits.holds import Hold, Holds, Refusal, period_of
from gateway.repeats.service import Repeats
from gateway.tenancy.watch import SnapshotWatch
from gateway.upstreams.choose import choose
from gateway.upstreams.types import Profile

SETTLE_WAIT_S_MAX = 5.0

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Route:
    """What differs between the routes: the licensed action, the upstream's path, the form of the body."""

    action: str
    path: str
    parse: Callable[[dict[str, Any], Profile], Call]


ROUTES: Mapping[str, Route] = {
    "/v1/chat/completions": Route("chat", "/chat/completions", chat_call),
    "/v1/completions": Route("completion", "/completions", completion_call),
}


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The stages' tools, shared by all requests of a process."""

    instance_id: str
    watch: SnapshotWatch
    clock: Clock
    identifier: Identifier
    running: Running
    repeats: Repeats
    holds: Holds
    counter: PromptCounter
    journal: Journal
    dispatcher: Dispatcher
    delivery: Delivery
    settler: Settler

    async def serve(self, inbound: Inbound, route: Route) -> None:
        """Walk one request from its headers to its settlement. Raises nothing: every end is an outcome."""
        exchange = Exchange(route.action, self.instance_id, opened_at=self.clock.now(), origin=inbound.origin)
        try:
            await self.identify(exchange, inbound)
            tree = parse_json(await inbound.body(), crowded=inbound.census.crowded)
            self.license(exchange, tree, inbound)
            self.read(exchange, tree, route)
            await self.claim(exchange, tree, route, inbound)
            await self.reserve(exchange)
            self.open(exchange)
            inbound.watch()
            answer = await self.dispatcher.dispatch(exchange, route.path)
            await self.delivery.deliver(exchange, answer, inbound)
        except Repeated as repeated:
            exchange.repeat(repeated.answer)
        except Fault as fault:
            exchange.fail(fault)
        except ClientGone:
            exchange.fail(Fault("client_gone"))
        except asyncio.CancelledError:
            exchange.fail(exchange.revoked or Fault("client_gone" if inbound.gone else "shutting_down"))
        except Exception as error:
            _LOG.exception("request %s failed", exchange.request_id)
            exchange.fail(Fault("internal", internal=repr(error)))
        finally:
            self.running.leave(exchange)
            inbound.unwatch()
        await self.conclude(exchange, inbound)

    async def identify(self, exchange: Exchange, inbound: Inbound) -> None:
        """Who is asking. Waits for nobody unless the credential is a token seen for the first time."""
        snapshot = exchange.snapshot = self.watch.current()
        principal = await self.identifier.identify(inbound.presented, snapshot.credentials, exchange.opened_at)
        exchange.principal = principal
        exchange.tenant = snapshot.tenants[principal.tenant_id]
        check_scope(principal, exchange.action)

    def license(self, exchange: Exchange, tree: dict[str, Any], inbound: Inbound) -> None:
        """Whether this tenant may do this with this model, for this purpose, with this class of data, and where.

        By the configuration and the time of now: a body may have taken 30 s to arrive, and what was in force when its
        headers came may have been revoked since.
        """
        principal = exchange.principal
        assert principal is not None
        snapshot, now = self.watch.current(), self.clock.now()
        principal = self.identifier.confirm(principal, inbound.presented, snapshot.credentials, now)
        check_scope(principal, exchange.action)
        tenant = snapshot.tenants[principal.tenant_id]
        exchange.snapshot, exchange.tenant, exchange.principal = snapshot, tenant, principal
        model, wanted = asked(tree, exchange.action, principal, inbound)
        exchange.model = named(model)
        choice = choose(snapshot.licences, snapshot.upstreams.get(model, ()), wanted, tenant.sites, now)
        if choice is None or not model_allowed(principal, model):
            raise Fault("model_not_found", param="model")
        exchange.ask = choice.ask
        exchange.decision, exchange.upstream = choice.decision, choice.upstream
        check_choice(choice, principal)
        assert exchange.grant is not None
        exchange.card = snapshot.rate_card(
            model, exchange.opened_at, exchange.action, tenant.tenant_id, exchange.grant.rate_card
        )

    def read(self, exchange: Exchange, tree: dict[str, Any], route: Route) -> None:
        """What exactly is asked, and how much it can cost at most."""
        assert exchange.upstream is not None
        exchange.call = route.parse(tree, exchange.upstream.profile)

    async def claim(self, exchange: Exchange, tree: dict[str, Any], route: Route, inbound: Inbound) -> None:
        """Where the request names an idempotency key, make sure that it is the only one that runs under it."""
        try:
            exchange.claim = await claimed(self.repeats, exchange, tree, route.path, inbound)
        except Repeated:
            self.license(exchange, tree, inbound)  # the wait may have been long, and an answer is as good as a run
            raise

    async def reserve(self, exchange: Exchange) -> None:
        """Set aside the most that the request can use; where that would be refused, its prompt is counted first."""
        try:
            exchange.hold = await self._hold(exchange)
        except Refusal as refusal:
            if not refusal.of_amounts or not await self.counter.tighten(exchange):
                raise
            exchange.hold = await self._hold(exchange)

    async def _hold(self, exchange: Exchange) -> Hold:
        call, card, tenant, grant, principal = (
            exchange.call, exchange.card, exchange.tenant, exchange.grant, exchange.principal
        )  # fmt: skip
        assert call is not None and card is not None and tenant is not None
        assert grant is not None and principal is not None
        self.settler.check()
        return await self.holds.reserve(
            exchange.request_id,
            tenant.tenant_id,
            exchange.snapshot.levels(tenant, grant, principal.access, self.clock.now()),
            period_of(exchange.opened_at, tenant.zone),
            call.prompt_bound + call.completion_bound,
            upper_bound(call.prompt_bound, call.completion_bound, card),
            self.instance_id,
            licence=grant.licence,
            zone=tenant.zone,
        )

    def open(self, exchange: Exchange) -> None:
        """Begin the journal row; `deliver` waits for it to be durable before the first byte leaves. From here on a
        revocation ends the request."""
        self.running.enter(exchange, self.watch.current())
        exchange.opened = self.journal.opens.put(exchange.open_row())

    async def conclude(self, exchange: Exchange, inbound: Inbound) -> None:
        """Settle, and tell the client how it ended. A stream's body ends only when its settlement stands."""
        self.settler.conclude(exchange)
        try:
            if exchange.replayed is not None:
                await replay(exchange, exchange.replayed, inbound)
            elif exchange.fault is not None and not inbound.gone:
                await self.tell(exchange, exchange.fault, inbound)
            if inbound.started and not inbound.ended and not inbound.gone:
                async with asyncio.timeout(SETTLE_WAIT_S_MAX):
                    await exchange.settled.wait()
                await inbound.end()
        except (ClientGone, asyncio.CancelledError, TimeoutError):
            return  # the settlement goes on without the client; a body without its end closes the connection

    async def tell(self, exchange: Exchange, fault: Fault, inbound: Inbound) -> None:
        """The error: as a response when none was begun, else as the stream's last event."""
        if not inbound.started:
            await inbound.refuse(fault, exchange.request_id, response_headers(exchange, inbound))
        elif not inbound.ended:
            body = error_body(fault, inbound.language, exchange.request_id)
            await inbound.write(b"data: " + body + b"\n\n")
