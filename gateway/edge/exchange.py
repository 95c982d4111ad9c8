"""One exchange on its way through the pipeline: what each stage found out, and how it ends."""

import asyncio
from dataclasses import dataclass, field

import uuid_utils

from billing.rating import RateCard, rate
from billing.types import Line, OpenRow, Outcome, Refusal, Settlement, Usage, UsageSource
from gateway.audit.record import AuditRecord
from gateway.clock import now_us
from gateway.edge.meter import StreamMeter
from gateway.edge.parse import Call
from gateway.faults import Fault
from gateway.identity.access import Principal
from gateway.licensing.decide import Ask, Decision, Grant
from gateway.limits.holds import Hold
from gateway.repeats.answer import KeptAnswer
from gateway.repeats.service import Claim
from gateway.tenancy.snapshot import Snapshot, Tenant
from gateway.upstreams.types import Upstream


@dataclass(slots=True)
class Exchange:
    """Filled from top to bottom; a stage may rely on what the stages before it have set."""

    action: str
    instance_id: str
    request_id: str = field(default_factory=lambda: str(uuid_utils.uuid7()))
    opened_at: int = field(default_factory=now_us)
    snapshot: Snapshot = field(default_factory=lambda: Snapshot(epoch=0))
    principal: Principal | None = None
    tenant: Tenant | None = None
    model: str = ""
    ask: Ask | None = None
    decision: Decision | None = None
    upstream: Upstream | None = None
    card: RateCard | None = None
    call: Call | None = None
    claim: Claim | None = None
    replayed: KeptAnswer | None = None
    hold: Hold | None = None
    opened: asyncio.Future[bool] | None = None
    attempt: int = 0
    meter: StreamMeter | None = None
    usage: Usage = field(default_factory=Usage)
    source: UsageSource = "none"
    finish_reason: str = ""
    first_byte_at: int | None = None
    outcome: Outcome | None = None
    fault: Fault | None = None
    revoked: Fault | None = None
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    origin: str = ""

    @property
    def attempt_id(self) -> str:
        """The id under which the engine knows this attempt."""
        return f"{self.request_id}-{self.attempt}"

    @property
    def grant(self) -> Grant | None:
        """The grant that permits the request, or on a refusal the one that came closest."""
        return None if self.decision is None else self.decision.grant

    @property
    def licence(self) -> str:
        """`<id>@<version>` of the licence that decided; '' when none did."""
        return "" if self.decision is None else self.decision.licence

    @property
    def rule_id(self) -> str:
        """The rule that decided: of the refusal, else of the licence."""
        if self.fault is not None and self.fault.rule is not None:
            return self.fault.rule
        return "" if self.decision is None else self.decision.rule_id

    def fail(self, fault: Fault) -> None:
        """End with `fault`, unless the exchange has already ended otherwise."""
        # Its trace would keep the frames of all stages, and with them the body, until the next full collection.
        fault.__traceback__ = fault.__context__ = fault.__cause__ = None
        if self.outcome is None:
            self.fault = fault
            self.outcome = fault.code.outcome

    def repeat(self, answer: KeptAnswer) -> None:
        """End with the answer of an earlier request. This one ran nowhere and costs nothing."""
        self.replayed, self.outcome, self.upstream = answer, Outcome.COMPLETED, None

    @property
    def code(self) -> str:
        """Why it ended as it did; '' when it simply completed."""
        if self.replayed is not None:
            return "idempotent_replay"
        return "" if self.fault is None else self.fault.code.name

    def count(self, usage: Usage, source: UsageSource) -> None:
        """Take the engine's final word on what was used."""
        self.usage = usage
        self.source = source

    @property
    def http_status(self) -> int:
        """The status the client got: once a stream's first byte is out it is 200, whatever happens then."""
        return 200 if self.fault is None or self.first_byte_at is not None else self.fault.code.status

    @property
    def charged(self) -> bool:
        """Whether the tenant pays: something was delivered, and the engine said how much."""
        return self.first_byte_at is not None and self.source != "none"

    @property
    def lines(self) -> tuple[Line, ...]:
        """The price lines; none when nothing was delivered."""
        if not self.charged or self.card is None:
            return ()
        return rate(self.usage, self.card)

    def open_row(self) -> OpenRow:
        """The journal's row at dispatch. Needs everything up to `hold`."""
        grant, upstream, card, hold, call = self.grant, self.upstream, self.card, self.hold, self.call
        if grant is None or upstream is None or card is None or hold is None or call is None:
            raise AssertionError("an exchange is opened before it is reserved")
        return OpenRow(
            **self._subject(),
            upstream_id=upstream.upstream_id,
            rule_id=grant.rule_id,
            licence_id=grant.licence_id,
            licence_version=grant.licence_version,
            epoch=self.snapshot.epoch,
            rate_card_id=card.rate_card_id,
            instance_id=self.instance_id,
            period=hold.period,
            stream=call.stream,
            held_tokens=hold.tokens,
            held_micro_yen=hold.micro_yen,
            opened_at=self.opened_at,
        )

    def settlement(self) -> Settlement:
        """The final word for the journal."""
        principal = self._known_principal()
        usage = self.usage if self.charged else Usage()
        return Settlement(
            request_id=self.request_id,
            tenant_id=principal.tenant_id,
            state="settled" if self.first_byte_at is not None else "voided",
            outcome=self.outcome or Outcome.INTERNAL,
            code=self.code,
            http_status=self.http_status,
            finish_reason=self.finish_reason,
            attempt=max(1, self.attempt),
            usage=usage,
            source=self.source if self.charged else "none",
            lines=self.lines,
            first_byte_at=self.first_byte_at,
            settled_at=now_us(),
            audit_record=self._audit_record(usage),
        )

    def refusal(self) -> Refusal:
        """The row of an authenticated request that was refused before dispatch, or answered with what is kept."""
        return Refusal(
            **self._subject(),
            outcome=self.outcome or Outcome.INTERNAL,
            code=self.code or "internal",
            http_status=self.http_status,
            rule_id=self.rule_id,
            licence_id=self.licence.partition("@")[0],
            licence_version=int(self.licence.partition("@")[2] or 0),
            epoch=self.snapshot.epoch,
            instance_id=self.instance_id,
            opened_at=self.opened_at,
            audit_record=self._audit_record(Usage()),
        )

    def _subject(self) -> dict[str, str]:
        """Who asked for what, for which purpose, and where it ran: as the journal's rows name it."""
        principal, ask, upstream = self._known_principal(), self.ask, self.upstream
        return {
            "request_id": self.request_id,
            "tenant_id": principal.tenant_id,
            "key_id": principal.key_id,
            "project_id": principal.access.project_id,
            "model": self.model,
            "model_version": "" if ask is None else ask.model_version,
            "action": self.action,
            "purpose": principal.access.purpose if ask is None else ask.purpose,
            "data_class": principal.access.data_class if ask is None else ask.data_class,
            "country": "" if ask is None else ask.country,
            "region": "" if upstream is None else upstream.region,
            "tier": "" if upstream is None else upstream.tier,
            "site": "" if upstream is None else upstream.site,
        }

    def _known_principal(self) -> Principal:
        if self.principal is None:
            raise AssertionError("an exchange without a principal is counted, not written down")
        return self.principal

    def _audit_record(self, usage: Usage) -> str:
        principal = self._known_principal()
        return AuditRecord(
            request=self.request_id,
            tenant=principal.tenant_id,
            key=principal.key_id,
            model=self.model,
            action=self.action,
            outcome=self.outcome or Outcome.INTERNAL,
            code=self.code,
            http=self.http_status,
            rule=self.rule_id.removeprefix(self.licence.partition("@")[0] + "/"),
            licence=self.licence,
            epoch=self.snapshot.epoch,
            micro_yen=sum(line.amount for line in self.lines),
            source=self.source if self.charged else "none",
            at=self.opened_at,
            prompt=usage.prompt,
            cached=usage.cached,
            completion=usage.completion,
            reasoning=usage.reasoning,
        ).canonical()
