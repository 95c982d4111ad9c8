"""One immutable picture of the configuration, swapped whole. Requests read it without locks or queries."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from billing.rating import RateCard
from gateway.faults import Fault
from gateway.identity.service import ApiKey
from gateway.licensing.decide import LicenceIndex
from gateway.upstreams.types import Upstream


@dataclass(frozen=True, slots=True)
class Limits:
    """What a tenant may use per calendar month of its zone, per minute and at once. Money in micro-yen."""

    tokens_month: int
    micro_yen_month: int
    rpm: int
    concurrency: int


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant and its limits; `zone` is an IANA time-zone name."""

    tenant_id: str
    zone: str
    limits: Limits


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that decides about a request, as of `epoch`."""

    epoch: int
    tenants: Mapping[str, Tenant] = field(default_factory=dict)
    keys: Mapping[str, ApiKey] = field(default_factory=dict)
    licences: LicenceIndex = field(default_factory=dict)
    upstreams: Mapping[str, tuple[Upstream, ...]] = field(default_factory=dict)
    rate_cards: Mapping[str, tuple[RateCard, ...]] = field(default_factory=dict)

    def rate_card(self, model: str, at: int) -> RateCard:
        """The rate card of `model` in force at `at` (microseconds since the epoch).

        A model without a price is not sold: raises `Fault("model_not_found")`.
        """
        for card in self.rate_cards.get(model, ()):
            if card.covers(at):
                return card
        raise Fault("model_not_found", param="model", internal=f"no rate card for {model} at {at}")
