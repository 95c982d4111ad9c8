"""Who asks what, and when: seeded sources of requests, and the patterns in which they come.

A source has a generator of its own, so what it asks does not depend on how it is served: every policy meets the same
traffic.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from gateway.priority.types import Ask, Group, charge
from loadtests.fairsim.pool import EVERYWHERE, SLOTS, service_us

SECOND_US = 1_000_000
# Clients ask for a round number of tokens at most; the gateway knows only that, and bytes instead of prompt tokens.
MAX_TOKENS = (64, 256, 512, 1_024, 2_048, 4_096)
PROMPT_MAX, PROMPT_BOUND_PERCENT = 16_384, 125
LEAVING_SHARE, LEAVING_S_MEAN = 0.05, 20.0

Level = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Mean tokens of prompt and answer, exponential up to 16 384 and 4 096; with a `tail` the answer is Pareto of that
    shape. `even`: always the means."""

    prompt: int = 400
    output: int = 200
    tail: float | None = None
    even: bool = False

    def draw(self, random: Random) -> tuple[int, int]:
        """Tokens of one prompt and its answer."""
        if self.even:
            return self.prompt, self.output
        prompt = 1 + int(min(random.expovariate(1 / self.prompt), PROMPT_MAX - 1))
        if self.tail is None:
            output = random.expovariate(1 / self.output)
        else:
            output = self.output * (self.tail - 1) / self.tail * random.paretovariate(self.tail)
        return prompt, 1 + int(min(output, MAX_TOKENS[-1] - 1))


@dataclass(frozen=True, slots=True)
class Job:
    """A request with what nobody knows beforehand: its tokens, and when its client loses patience (None: never)."""

    ask: Ask
    prompt: int
    output: int
    max_tokens: int
    leaves_us: int | None

    @property
    def truth(self) -> int:
        """What it will have been charged in the end."""
        return charge(self.prompt, self.output)

    @property
    def bound(self) -> int:
        """What it is charged once the engine has counted its prompt."""
        return max(self.truth, min(self.ask.charge, charge(self.prompt, self.max_tokens)))


def steady(_: float) -> float:
    """The same load all the time."""
    return 1.0


def on_off(on_s: float, off_s: float) -> Level:
    """Full load for `on_s`, none for `off_s`, and so on."""
    return lambda at_s: float(at_s % (on_s + off_s) < on_s)


def ramp(over_s: float) -> Level:
    """From nothing to full load over `over_s`, and again."""
    return lambda at_s: at_s % over_s / over_s


@dataclass(frozen=True, slots=True)
class Source:
    """An owner's traffic. `load`: the part of the pool's slot time that it would fill alone at full level; `exact`: its
    charges are known beforehand."""

    owner: str
    group: Group
    load: float
    sizes: Sizes = Sizes()
    level: Level = steady
    weight: int = 1
    upstreams: tuple[str, ...] = EVERYWHERE
    exact: bool = False

    def jobs(self, seed: str) -> Iterator[Job]:
        """What it asks, in order of time, without end; Poisson, thinned to the level (Lewis and Shedler, 1979)."""
        random = Random(f"{seed}/{self.owner}")
        slot_s = service_us(self.sizes.prompt, self.sizes.output, SLOTS // 2) / SECOND_US
        rate = self.load * SLOTS / slot_s
        at_s, number = 0.0, 0
        while True:
            at_s += random.expovariate(rate)
            if random.random() < self.level(at_s):
                yield self._job(random, int(at_s * SECOND_US), number)
                number += 1

    def _job(self, random: Random, at_us: int, number: int) -> Job:
        prompt, output = self.sizes.draw(random)
        most = next(one for one in MAX_TOKENS if one >= output)
        estimate = charge(prompt, output) if self.exact else charge(prompt * PROMPT_BOUND_PERCENT // 100, most)
        leaves_us = None
        if random.random() < LEAVING_SHARE:
            leaves_us = at_us + int(random.expovariate(1 / LEAVING_S_MEAN) * SECOND_US)
        ask = Ask(f"{self.owner}-{number}", self.owner, self.group, self.weight, estimate, at_us, self.upstreams)
        return Job(ask, prompt, output, most, leaves_us)
