"""Decisions against Cedar policies that were written from the same documents by another way."""

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.licensing.decide import LicenceIndex, Refusal
from gateway.licensing.index import TenantIndex
from tests.gateway.licensing.oracle import Comparison, compare, compare_in
from tests.gateway.licensing.worlds import random_ask, random_world

CASES = 100_000


def test_decisions_agree_with_cedar_in_100_000_seeded_cases() -> None:
    comparison = compare(seed=20261124, cases=CASES)
    assert comparison.cases == CASES
    assert comparison.disagreements == 0, comparison.examples
    assert CASES * 0.1 < comparison.allowed < CASES * 0.9
    # An exclusivity needs a register beside the documents (tests/gateway/priority).
    walked = set(get_args(Refusal)) - {"exclusive_to_another"}
    assert min(comparison.refusals[refusal] for refusal in walked) > CASES / 500  # each way was walked


class BytesRandom(Random):
    """Draws from given bytes, and zeros after their end: what Hypothesis shrinks, this turns into a smaller world."""

    def __init__(self, source: bytes) -> None:
        super().__init__()
        self._left = iter(source)

    def getrandbits(self, k: int, /) -> int:
        drawn = 0
        for _ in range(-(-k // 8)):
            drawn = drawn << 8 | next(self._left, 0)
        return drawn & (1 << k) - 1

    def random(self) -> float:
        return self.getrandbits(16) / 2**16


@settings(max_examples=2_000, deadline=None)
@given(st.binary(min_size=400, max_size=400))
def test_decision_agrees_with_cedar_in_the_smallest_world_that_can_be_found(source: bytes) -> None:
    rng = BytesRandom(source)
    world = random_world(rng, roots=1, clauses=2)
    comparison = Comparison()
    compare_in(world, world.index(), [random_ask(rng, world)], comparison)
    assert comparison.disagreements == 0, comparison.examples


def without_prohibitions(tenant: TenantIndex) -> TenantIndex:
    in_force = tuple(bits & tenant.granting for bits in tenant.times.in_force)
    return replace(tenant, times=replace(tenant.times, in_force=in_force))


def with_every_purpose(tenant: TenantIndex) -> TenantIndex:
    places = set(tenant.places.purposes.values())
    covering = tuple(-1 if place in places else bits for place, bits in enumerate(tenant.covering))
    return replace(tenant, covering=covering)


def one_microsecond_late(tenant: TenantIndex) -> TenantIndex:
    return replace(tenant, times=replace(tenant.times, bounds=tuple(at + 1 for at in tenant.times.bounds)))


def without_adapters(tenant: TenantIndex) -> TenantIndex:
    return replace(tenant, adapters={}, any_adapter=0)


def in_another_order(tenant: TenantIndex) -> TenantIndex:
    grants = len(tenant.grants)
    return replace(tenant, clauses=(*tenant.clauses[:grants][::-1], *tenant.clauses[grants:]))


@pytest.mark.parametrize(
    "spoil",
    [without_prohibitions, with_every_purpose, one_microsecond_late, without_adapters, in_another_order],
)
def test_an_index_that_is_wrong_is_found_by_the_comparison(spoil: Callable[[TenantIndex], TenantIndex]) -> None:
    def spoilt(index: LicenceIndex) -> LicenceIndex:
        return {tenant: spoil(compiled) for tenant, compiled in index.items()}

    assert compare(seed=7, cases=5_000, changed=spoilt).disagreements > 0
