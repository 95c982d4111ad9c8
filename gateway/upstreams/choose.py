"""Which upstream a request may go to: the licence decides for each place, and the first that may serve it does."""

from dataclasses import dataclass
from typing import get_args

from msgspec.structs import replace

from gateway.licensing.decide import Ask, Decision, LicenceIndex, Refusal, decide
from gateway.upstreams.types import Upstream

# The later in the order of decisions a refusal comes, the nearer the request was to a permission.
_NEARNESS = {refusal: rank for rank, refusal in enumerate(get_args(Refusal))}


@dataclass(frozen=True, slots=True)
class Choice:
    """The decision, and the place it was taken for (of several refusals, the one nearest to a permission)."""

    upstream: Upstream
    ask: Ask
    decision: Decision


def choose(
    licences: LicenceIndex, upstreams: tuple[Upstream, ...], wanted: Ask, sites: frozenset[str], now: int
) -> Choice | None:
    """The first of `upstreams` where `wanted` may be served, else the refusal to tell; None when there is no upstream
    or no grant at all. `sites` are the tenant's own; `now` in microseconds since the epoch. A `model_version` in
    `wanted` pins it.
    """
    nearest: Choice | None = None
    for upstream in upstreams:
        if wanted.model_version and wanted.model_version != upstream.model_version:
            continue
        ask = replace(
            wanted, model_version=upstream.model_version, country=upstream.country, region=upstream.region,
            tier=upstream.tier, own_site=upstream.site in sites,
        )  # fmt: skip
        decision = decide(licences, ask, now)
        choice = Choice(upstream, ask, decision)
        if decision.allowed:
            return choice
        if decision.refusal != "no_grant" and (nearest is None or _nearer(decision, nearest.decision)):
            nearest = choice
    return nearest


def _nearer(one: Decision, other: Decision) -> bool:
    return _NEARNESS[one.refusal] > _NEARNESS[other.refusal]
