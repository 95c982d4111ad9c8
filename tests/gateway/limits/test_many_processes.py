"""However many processes keep the limits, none of any level is overspent, and what is left can be used up."""

import asyncio
import random
from collections import Counter
from itertools import product
from typing import Any

from gateway.faults import Fault
from gateway.limits.holds import Hold, Holds
from gateway.limits.levels import Limits
from tests.gateway.limits.asking import Chain, key_of, refused, release, reserve, sums

REQUESTS = 6_000
IN_FLIGHT = 120
TOKENS = {"tenant": 60_000, "licence lic/g1": 50_000, "licence lic/g2": 30_000, "project alpha": 20_000,
          "project beta": 45_000, "key k1": 9_000, "key k2": 40_000}  # fmt: skip
AT_ONCE = {"tenant": 60, "licence lic/g1": 50, "licence lic/g2": 20, "project alpha": 25, "project beta": 40,
           "key k1": 10, "key k2": 45}  # fmt: skip


def chains() -> list[tuple[Chain, tuple[str, ...]]]:
    """Every combination of grant, project and key of one tenant, with the names of its levels."""
    found = []
    base = Chain.of(tenant=_limits("tenant"))
    for rule, project, key in product(("lic/g1", "lic/g2"), ("alpha", "beta"), ("k1", "k2")):
        chain, names = base, ["tenant"]
        for kind, level in (("licence", rule), ("project", project), ("key", key)):
            names.append(f"{kind} {level}")
            chain = chain.changed(kind, id=level, limits=_limits(names[-1]))
        found.append((chain, tuple(names)))
    return found


def _limits(name: str) -> Limits:
    return Limits(tokens_month=TOKENS[name], concurrency=AT_ONCE[name])


class Ledger:
    """What the clients know of each level: tokens held or used, and running requests; never more than in truth."""

    def __init__(self) -> None:
        self.tokens: Counter[str] = Counter()
        self.running: Counter[str] = Counter()
        self.highest: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    def book(self, names: tuple[str, ...], tokens: int, running: int) -> None:
        for name in names:
            self.tokens[name] += tokens
            self.running[name] += running
            self.highest[name] = max(self.highest[name], self.tokens[name])
            assert self.tokens[name] <= TOKENS[name]
            assert self.running[name] <= AT_ONCE[name]


async def test_three_processes_overspend_no_level_and_leave_nothing_behind(processes: list[Holds], valkey: Any) -> None:
    dice, ledger, tries = random.Random(41), Ledger(), iter(range(REQUESTS))
    all_chains = chains()

    async def client() -> None:
        for _ in tries:
            (chain, names), holds = dice.choice(all_chains), dice.choice(processes)
            asked = dice.randint(1, 200)
            try:
                hold = await reserve(holds, chain, asked, 0)
            except Fault as fault:
                ledger.refused[str(fault.rule)] += 1
                continue
            ledger.book(names, asked, 1)
            await asyncio.sleep(0)
            used = dice.randint(0, asked)
            ledger.book(names, used - asked, -1)
            await release(dice.choice(processes), hold, used)

    await asyncio.gather(*(client() for _ in range(IN_FLIGHT)))
    tenant_id = all_chains[0][0].tenant_id
    stored = await sums(valkey, tenant_id)
    assert {name.replace(":", " ", 1) or "tenant": sum_[0] for name, sum_ in stored.items()} == +ledger.tokens
    assert {sum_[1:] for sum_ in stored.values()} == {(0, 0, 0)}
    assert await valkey.exists(*[await key_of(valkey, part, tenant_id) for part in ("holds", "concurrent")]) == 0
    assert {rule.split(":")[2] for rule in ledger.refused} == {"tokens_month", "concurrency"}
    await _use_up(processes, all_chains, ledger)


async def _use_up(processes: list[Holds], all_chains: list[tuple[Chain, tuple[str, ...]]], ledger: Ledger) -> None:
    """What every chain has left fits to the last token; not one token more does."""
    for number, (chain, names) in enumerate(all_chains):
        holds = processes[number % len(processes)]
        left = min(TOKENS[name] - ledger.tokens[name] for name in names)
        await refused(holds, chain, left + 1, 0)
        await release(holds, await reserve(holds, chain, left, 0), left)
        ledger.book(names, left, 0)


async def test_last_token_goes_to_one_of_all_who_ask_at_the_same_moment(processes: list[Holds]) -> None:
    for kind in ("tenant", "licence", "project", "key"):
        chain = Chain.of(**{kind: Limits(tokens_month=5)})
        asking = (reserve(holds, chain, 5) for holds in processes for _ in range(50))
        answers = await asyncio.gather(*asking, return_exceptions=True)
        assert sum(not isinstance(answer, BaseException) for answer in answers) == 1
        assert all(answer.rule == f"limit:{kind}:tokens_month" for answer in answers if isinstance(answer, Fault))


async def test_minute_of_a_level_is_one_for_all_processes(processes: list[Holds]) -> None:
    chain = Chain.of(project=Limits(rpm=40))
    asking = (reserve(holds, chain) for holds in processes for _ in range(60))
    answers = await asyncio.gather(*asking, return_exceptions=True)
    passed, turned_away = Counter[bool](), Counter[bool]()
    for answer in answers:
        if isinstance(answer, Hold):
            assert answer.requests_left is not None
            passed[answer.requests_left.reset_s > 30] += 1
        else:
            assert isinstance(answer, Fault)
            turned_away[int(answer.headers["x-ratelimit-reset-requests"].removesuffix("s")) > 30] += 1
    # All within a second: the minute may have turned once, and no more than two times 40 of 180 can have passed.
    for minute in turned_away:
        assert passed[minute] == 40
    assert turned_away.total() == 180 - passed.total() >= 100
