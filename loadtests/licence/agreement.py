"""The comparison with Cedar on all cores: the cases of one seed are the same whatever the number of cores."""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.gateway.licensing.oracle import Comparison, compare

CASES_PER_PART = 10_000


def agreement(seed: int, cases: int) -> Comparison:
    """`cases` seeded cases, compared in parts."""
    total = Comparison()
    parts = list(_parts(seed, cases))
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for part in pool.map(compare, *zip(*parts, strict=True)):
            total.cases += part.cases
            total.allowed += part.allowed
            total.disagreements += part.disagreements
            total.refusals += part.refusals
            total.examples += part.examples
    return total


def _parts(seed: int, cases: int) -> Iterator[tuple[int, int]]:
    for number, first in enumerate(range(0, cases, CASES_PER_PART)):
        yield seed + number, min(CASES_PER_PART, cases - first)
