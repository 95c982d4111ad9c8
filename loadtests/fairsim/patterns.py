"""The patterns of traffic by name. Loads are parts of the pool's slot time: above 1 in all, asks have to wait."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from loadtests.fairsim.traffic import Level, Sizes, Source, on_off, ramp, steady

LONG = Sizes(prompt=6_000, output=100)
TAIL = Sizes(tail=1.5)
MINUTE_S = 60.0

Sources = Sequence[Source]


def investors(load: float, sizes: Sizes = Sizes(), level: Level = steady) -> list[Source]:  # noqa: B008 # frozen
    """Three owners with lineage priority, `load` together."""
    return [Source(f"investor-{n}", "priority", load / 3, sizes, level) for n in range(3)]


def public(load: float, sizes: Sizes = Sizes(), level: Level = steady) -> list[Source]:  # noqa: B008 # frozen
    """Four owners without, `load` together."""
    return [Source(f"public-{n}", "open", load / 4, sizes, level) for n in range(4)]


def _somewhere() -> list[Source]:
    """Some may be served at one upstream only, and operators probe the pool for what nobody wants."""
    here, there = ("heavy-a",), ("heavy-b",)
    local = [replace(one, owner=f"local-{one.owner}", upstreams=here) for one in (*investors(0.4), *public(0.4))]
    far = [replace(one, owner=f"far-{one.owner}", upstreams=there) for one in public(0.3)]
    return [*investors(0.5), *public(0.4), *local, *far, Source("operator", "internal", 0.2)]


# The bound must hold in each of these at every step.
SATURATED: Mapping[str, Sources] = {
    "poisson": [*investors(1.5), *public(1.2)],
    "on_off": [*investors(1.5), *public(1.5, level=on_off(4 * MINUTE_S, 2 * MINUTE_S))],
    "hog": [*investors(1.5), *public(0.8), Source("hog", "open", 5.0)],
    "ramp": [*investors(3.0, level=ramp(20 * MINUTE_S)), *public(1.2)],
    "long_prompts": [*investors(1.5), *public(1.2, LONG)],
    "heavy_tail": [*investors(1.5, TAIL), *public(1.2, TAIL)],
    "places": _somewhere(),
    "exact": [replace(one, exact=True) for one in (*investors(1.5), *public(1.2))],
}
# Investors ask for a seventh of the pool, the public for more than all of it: what do investors wait?
LOW_LOAD: Sources = [*investors(0.15), *public(1.5)]
# What is served in a second depends on which requests are: only among equal ones it tells policies apart.
EVEN: Sources = [*investors(1.5, Sizes(even=True)), *public(1.2, Sizes(even=True))]
LONE: Sources = [Source("public-0", "open", 1.5)]
