"""Every verdict, headroom and counter is the one of a plain model of the rule, over 100,000 seeded random steps: in
Valkey, in the book, and through turns from one to the other and a Valkey that forgets everything."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

from gateway.limits.headroom import Headroom
from gateway.limits.holds import Hold, Holds, Refusal, Release
from gateway.limits.levels import LIMIT_NAMES, LimitLevel, Limits, Raise
from tests.gateway.limits.behind import state_of, turn
from tests.gateway.limits.model import LIMITS, Held, Model

SEED = 20_261_124
TENANTS = 80
# Steps of each tenant between turns, and what the turn is: 100,000 steps in all.
COURSE = ((700, "book"), (40, "valkey"), (200, "flush"), (290, "book"), (20, ""))
LOOK_EVERY = 200
PERIODS = ("202611", "202612")
WITHIN = (("licence", "lic/g1", "lic/g2"), ("project", "a", "ab"), ("key", "k1", "k2", "k3"))
# tokens and yen of the month, requests of the minute, at once, tokens of the minute
BOUNDS = ((5_000, 20_000, 100_000), (1_500, 8_000, 40_000), (30, 150, 600), (3, 6, 12), (700, 6_000, 40_000))


class Tenant:
    """One tenant's random life, step by step in the store and in the model: requests at changing levels with changing
    limits and raises, repeated, lowered, released, released again, in two months."""

    def __init__(self, processes: Sequence[Holds], valkey: Any, number: int) -> None:
        self.processes, self.valkey, self.model = processes, valkey, Model()
        self.dice = random.Random(SEED + number)
        self.tenant_id = f"t-{uuid4().hex[:12]}"
        self.ended: list[Release] = []
        self.open: dict[str, Hold] = {}
        self.verdicts: Counter[str] = Counter()

    async def live(self, steps: int) -> None:
        for step in range(steps):
            throw = self.dice.random()
            if throw < 0.45 or not self.model.holds:
                await self.ask(str(UUID(int=self.dice.getrandbits(128))))
            elif throw < 0.50:
                await self.ask(self.dice.choice(list(self.model.holds)))
            elif throw < 0.58:
                await self.shrink(self.dice.choice(list(self.model.holds)))
            elif throw < 0.95 or not self.ended:
                await self.end(self.dice.choice(list(self.model.holds)))
            else:
                await self.any_process().release(self.dice.choice(self.ended))
            if step % LOOK_EVERY == 0:
                await self.look()
        await self.look()

    async def survive(self) -> None:
        """A new generation knows nothing of this tenant, who has no rows in the journal; what was held is confirmed,
        each hold once more under its limits, or is held no longer."""
        open_holds, self.open = self.open, {}
        asked = {request_id: hold for request_id, hold in open_holds.items() if request_id in self.model.holds}
        self.model = Model()
        for request_id, hold in asked.items():
            before = _minute(-0.1)
            try:
                confirmed = await self.any_process().confirm(hold)
            except Refusal:
                assert self._refusals(hold.asked.levels, hold, before) != {""}
                continue
            assert confirmed.generation > hold.generation
            held = Held(hold.period, hold.tokens, hold.micro_yen, tuple(level.name for level in hold.asked.levels))
            self.model.reserve(request_id, held, before)
            self.open[request_id] = confirmed
            await self.settle_minute(before)
        await self.look()

    def any_process(self) -> Holds:
        return self.dice.choice(self.processes)

    def levels(self) -> tuple[LimitLevel, ...]:
        within = [LimitLevel(kind, self.dice.choice(ids), self.limits()) for kind, *ids in WITHIN]  # type: ignore[arg-type]
        levels = (
            LimitLevel("tenant", self.tenant_id, self.limits()),
            *(one for one in within if self.dice.random() < 0.9),
        )
        return tuple(self.raised(level) if self.dice.random() < 0.1 else level for level in levels)

    def limits(self) -> Limits:
        return Limits(*(self.dice.choice(bounds) if self.dice.random() < 0.12 else None for bounds in BOUNDS))

    def raised(self, level: LimitLevel) -> LimitLevel:
        """The level with two raises, of which some are over or yet to come."""
        name, at = self.dice.choice(LIMIT_NAMES), 1_000
        raises = [
            Raise("lr", name, self.dice.randint(1, 200_000), self.dice.choice((0, 1_000, 1_001)), end)
            for end in (1_000, 1_001, 9_999)
        ]
        bound = getattr(level.limits, name)
        values = [one.value for one in raises if one.starts_at <= at < one.ends_at]
        expected = None if bound is None else max([bound, *values])
        found = level.raised(raises, at)
        assert found == replace(level, limits=replace(level.limits, **{name: expected}))
        return found

    async def ask(self, request_id: str) -> None:
        levels, model = self.levels(), self.model
        known = model.holds.get(request_id)
        names = tuple(level.name for level in levels)
        held = known or Held(self.dice.choice(PERIODS), self.dice.randint(0, 900), self.dice.randint(0, 500), names)
        amounts = (held.period, held.tokens, held.micro_yen)
        before = _minute(-0.1)  # a script's clock is the one of the moment its batch was read
        try:
            hold = await self.any_process().reserve(request_id, self.tenant_id, levels, *amounts, "gateway-test")
        except Refusal as refusal:
            alone = "_alone" if refusal.code.name == "request_exceeds_minute" else ""
            self.verdicts[f"{refusal.rule}{alone}"] += 1
            assert known is None
            assert f"{refusal.rule}{alone}" in {model.refusal(levels, *amounts, at) for at in {before, _minute()}}
            return
        if known is None:
            sure = before == _minute()
            minute = before if sure else (await state_of(self.valkey, self.tenant_id)).minute
            assert model.refusal(levels, *amounts, minute) == ""
            model.reserve(request_id, held, minute)
            self.open[request_id] = hold
            self.verdicts["held"] += 1
        await self.settle_minute(before)
        if before == _minute():
            self.compare(hold, levels, before)

    def compare(self, hold: Hold, levels: Sequence[LimitLevel], minute: int) -> None:
        model, period = self.model, hold.period
        assert _told(hold.tokens_left) == model.headroom(levels, ("tokens_month", "tpm"), period, minute)
        assert _told(hold.requests_left) == model.headroom(levels, ("rpm",), period, minute)

    async def end(self, request_id: str) -> None:
        held, before = self.model.holds[request_id], _minute(-0.1)
        used = (0, 0) if self.dice.random() < 0.2 else (self.dice.randint(0, held.tokens), self.dice.randint(0, 500))
        release = Release(request_id, self.tenant_id, held.period, *used)
        await self.any_process().release(release)
        self.model.release(request_id, *used, before)
        await self.settle_minute(before)
        self.ended = [*self.ended[-20:], release]

    async def shrink(self, request_id: str) -> None:
        held, before, holds = self.model.holds[request_id], _minute(-0.1), self.any_process()
        tokens, micro_yen = self.dice.randint(0, held.tokens + 50), self.dice.randint(0, held.micro_yen + 50)
        holds.shrink(self.open[request_id], tokens, micro_yen)
        await asyncio.gather(*holds._shrinking)
        self.model.shrink(request_id, tokens, micro_yen, before)
        await self.settle_minute(before)

    async def settle_minute(self, before: int) -> None:
        """Where a step may have met the end of a minute, only the store knows on which side it was."""
        if before != _minute():
            state = await state_of(self.valkey, self.tenant_id)
            self.model.minute, self.model.requests, self.model.tokens = state.minute, state.requests, state.tokens
            for request_id, held in state.holds.items():
                self.model.holds[request_id] = held

    async def look(self) -> None:
        """Everything that is kept of the tenant is what the model keeps."""
        model, state = self.model, await state_of(self.valkey, self.tenant_id)
        assert {at: tuple(sums) for at, sums in state.sums.items() if any(sums)} == {
            at: tuple(sums) for at, sums in model.sums.items() if any(sums)
        }
        assert state.holds == model.holds
        assert +state.running == Counter(name for held in model.holds.values() for name in held.names)
        if state.minute == model.minute:
            assert +state.requests == +model.requests
            assert +state.tokens == +model.tokens
        self.model.sums = {at: sums for at, sums in model.sums.items() if any(sums)}

    def _refusals(self, levels: Sequence[LimitLevel], hold: Hold, before: int) -> set[str]:
        amounts = (hold.period, hold.tokens, hold.micro_yen)
        return {self.model.refusal(levels, *amounts, at) for at in {before, _minute()}}


def _minute(shift_s: float = 0.0) -> int:
    return int((time.time() + shift_s) // 60)


def _told(headroom: Headroom | None) -> tuple[str, int, int] | None:
    return None if headroom is None else (headroom.kind, headroom.limit, headroom.remaining)


async def test_every_verdict_and_every_counter_is_the_models(
    processes: list[Holds], valkey: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("gateway.limits.holds.RELEASE_GRACE_S", 0)
    monkeypatch.setattr("gateway.limits.modes.BACK_S", 3_600)
    tenants = [Tenant(processes, valkey, number) for number in range(TENANTS)]
    for steps, change in COURSE:
        await asyncio.gather(*(tenant.live(steps) for tenant in tenants))
        if change:
            await turn(processes, change, valkey)
            await asyncio.gather(*(tenant.survive() for tenant in tenants))
    verdicts: Counter[str] = sum((tenant.verdicts for tenant in tenants), Counter())
    steps = TENANTS * sum(steps for steps, _ in COURSE)
    print(f"seed {SEED}: {steps} steps, {verdicts['held']} held, {verdicts.total() - verdicts['held']} refused")
    rules = {f"limit:{kind}:{limit}" for kind in ("tenant", "licence", "project", "key") for limit in LIMITS}
    assert set(verdicts) == {"held", *rules}
    assert min(verdicts.values()) > 50
    await turn(processes, "valkey", valkey)
