"""Turns a tenant's clauses into tables: code → the clauses that mean it, as bits. Pure."""

from array import array
from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from sys import intern
from typing import TypeVar

from gateway.licensing.document import GrantClause, LicenceDocument, Prohibition, Quota
from gateway.licensing.index import Closing, Grant, Places, TenantIndex, Timeline
from gateway.licensing.registers import DIMENSIONS, Dimension, Registers
from gateway.limits.levels import Limits
from gateway.priority.register import Window

_Code = TypeVar("_Code", bound=Hashable)
_EVERY = ["*"]
_MICRO = 1_000_000


@dataclass(frozen=True, slots=True)
class Term:
    """When a licence is in force: from `not_before` to `grace_until` (microseconds since the epoch), unless it or one
    that it is cut from is `revoked`."""

    not_before: int
    not_after: int
    grace_until: int
    revoked: bool

    def in_force(self, moment: int) -> bool:
        """Whether its clauses bind at `moment`."""
        return not self.revoked and self.not_before <= moment < self.grace_until

    def to_come(self, moment: int) -> bool:
        """Whether they will after `moment`."""
        return not self.revoked and moment < self.not_before


@dataclass(frozen=True, slots=True)
class PlacedGrant:
    """A grant with its licence; `covered` are the pairs (model, version) of the catalogue that its patterns mean,
    `owner` is the beneficial owner."""

    document: LicenceDocument
    clause: GrantClause
    term: Term
    covered: Set[tuple[str, str]]
    owner: str = ""


@dataclass(frozen=True, slots=True)
class PlacedProhibition:
    """A prohibition with its licence, likewise."""

    document: LicenceDocument
    clause: Prohibition
    term: Term
    covered: Set[tuple[str, str]]


def tenant_index(
    grants: Sequence[PlacedGrant],
    prohibitions: Sequence[PlacedProhibition],
    registers: Registers,
    windows: Iterable[Window] = (),
) -> TenantIndex:
    """The clauses of one tenant, each kind in the order in which it decides, as an index. `windows` are all
    exclusivities there are."""
    placed: list[PlacedGrant | PlacedProhibition] = [*grants, *prohibitions]
    granting = _one((1 << len(grants)) - 1)
    pairs = _table([one.covered for one in placed])
    models: dict[str, int] = {}
    for (model, _), bits in pairs.items():
        if bits & granting:
            models[model] = models.get(model, 0) | bits & granting
    adapters = [_named(one.clause.adapters) for one in grants]
    every: list[None] = [None for _ in prohibitions]
    return TenantIndex(
        grants=tuple(_grant(one) for one in grants),
        clauses=tuple(
            (f"{one.document.licence_id}/{one.clause.id}", f"{one.document.licence_id}@{one.document.version}")
            for one in placed
        ),
        granting=granting,
        models=models,
        releases={intern(f"{model}@{version}"): bits for (model, version), bits in pairs.items() if model in models},
        places=_places(registers),
        covering=_covering(grants, prohibitions, registers),
        countries=_table([*(map(intern, one.document.personal_data.processing_countries) for one in grants), *every]),
        adapters=_table([*adapters, *every]),
        any_adapter=_bits(named is None for named in (*adapters, *every)),
        times=_timeline([one.term for one in placed]),
        revoked=_bits(one.term.revoked for one in grants),
        closed=_closed(grants, windows),
    )


def _closed(grants: Sequence[PlacedGrant], windows: Iterable[Window]) -> dict[str, tuple[Closing, ...]]:
    closed: dict[str, tuple[Closing, ...]] = {}
    for window in windows:
        model, _, version = window.release.rpartition("@")
        bits = _bits((model, version) in one.covered and one.owner not in window.owners for one in grants)
        if bits:
            closing = Closing(window.since, window.until, bits)
            closed[window.release] = (*closed.get(window.release, ()), closing)
    return closed


@lru_cache(maxsize=8)
def _places(registers: Registers) -> Places:
    """After the places for codes that are not listed, those of all that are, dimension by dimension."""
    place = count(len(DIMENSIONS))
    return Places(**{name: {code: next(place) for code in sorted(registers.codes(name))} for name in DIMENSIONS})


def _covering(
    grants: Sequence[PlacedGrant], prohibitions: Sequence[PlacedProhibition], registers: Registers
) -> tuple[int, ...]:
    unlisted: list[int] = []
    listed: list[int] = []
    for name, places in zip(DIMENSIONS, _in_order(_places(registers)), strict=True):
        granted = [_granted(getattr(one.clause, name), places, name) for one in grants]
        denied = [_named(getattr(one.clause.match, name)) for one in prohibitions]
        every = _bits(named is None for named in (*granted, *denied))
        table = _table([*granted, *denied])
        unlisted.append(every)
        listed += [table.get(code, every) for code in places]
    return (*unlisted, *listed)


def _in_order(places: Places) -> tuple[Mapping[str, int], ...]:
    return places.actions, places.purposes, places.data_classes, places.regions, places.tiers


def _granted(codes: Sequence[str], known: Mapping[str, int], dimension: Dimension) -> Sequence[str]:
    """A grant of every code is one of the codes that the register lists. Actions are granted one by one."""
    return list(known) if codes == _EVERY and dimension != "actions" else codes


def _named(codes: Sequence[str] | None) -> Sequence[str] | None:
    """None where a clause covers every code."""
    return None if codes == _EVERY else codes


def _table(clauses: Sequence[Iterable[_Code] | None]) -> dict[_Code, int]:
    """Named code → bits of the clauses that cover it."""
    every = _bits(named is None for named in clauses)
    table: dict[_Code, int] = {}
    for number, named in enumerate(clauses):
        for code in named or ():
            table[code] = table.get(code, every) | 1 << number
    return {code: _one(bits) for code, bits in table.items()}


def _timeline(terms: Sequence[Term]) -> Timeline:
    bounds = sorted({moment for term in terms for moment in (term.not_before, term.grace_until)})
    moments = [bounds[0] - 1, *bounds] if bounds else [0]
    in_force = tuple(_bits(term.in_force(moment) for term in terms) for moment in moments)
    to_come = tuple(_bits(term.to_come(moment) for term in terms) for moment in moments)
    return Timeline(array("q", bounds), in_force, to_come)


def _bits(flags: Iterable[bool]) -> int:
    return _one(sum(1 << number for number, flag in enumerate(flags) if flag))


@lru_cache(maxsize=65_536)
def _one(bits: int) -> int:
    """The same object for equal sets: a decision waits for memory more than for anything else."""
    return bits


def _grant(placed: PlacedGrant) -> Grant:
    document, clause, term = placed.document, placed.clause, placed.term
    priority = clause.priority
    return Grant(
        rule_id=f"{document.licence_id}/{clause.id}",
        licence_id=document.licence_id,
        licence_version=document.version,
        not_before=term.not_before,
        not_after=term.not_after,
        grace_until=term.grace_until,
        limits=_limits(clause.quota),
        priority_class=document.licensee.licensee_class if priority is None else priority.priority_class,
        weight=1 if priority is None else priority.weight,
        rate_card=clause.rate_card,
        zero_retention=clause.zero_retention or document.personal_data.handling_mode == "zero_retention",
        owner=placed.owner,
        licensee_class=document.licensee.licensee_class,
        contributions=frozenset(document.ip.contributions),
    )


def _limits(quota: Quota) -> Limits:
    yen = quota.yen_month_hard
    micro_yen = None if yen is None else yen * _MICRO
    return Limits(quota.tokens_month, micro_yen, quota.rpm, quota.concurrency, quota.tpm)
