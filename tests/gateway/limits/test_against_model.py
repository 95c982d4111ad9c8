"""Every verdict, headroom and counter is the one of a plain model of the rule, over 100,000 seeded random steps."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

from gateway.faults import Fault
from gateway.limits.headroom import Headroom
from gateway.limits.holds import Hold, Holds, Release
from gateway.limits.levels import LimitLevel, Limits
from tests.gateway.limits.asking import sums
from tests.gateway.limits.model import LIMITS, Held, Model

SEED = 20_261_124
TENANTS = 80
STEPS = 1_300  # of each tenant: 104,000 in all
LOOK_EVERY = 100
PERIODS = ("202611", "202612")
WITHIN = (("licence", "lic/g1", "lic/g2"), ("project", "a", "ab"), ("key", "k1", "k2", "k3"))
BOUNDS = ((5_000, 20_000, 100_000), (10_000, 40_000, 90_000), (30, 150, 600), (3, 6, 12))


class Tenant:
    """One tenant's random life, step by step on Valkey and on the model: requests at changing levels with changing
    limits, repeated, released, released again, in two months."""

    def __init__(self, processes: Sequence[Holds], valkey: Any, number: int) -> None:
        self.processes, self.valkey, self.model = processes, valkey, Model()
        self.dice = random.Random(SEED + number)
        self.tenant_id = f"t-{uuid4().hex[:12]}"
        self.ended: list[Release] = []
        self.verdicts: Counter[str] = Counter()

    async def live(self) -> Counter[str]:
        for step in range(STEPS):
            throw = self.dice.random()
            if throw < 0.5 or not self.model.holds:
                await self.ask(str(UUID(int=self.dice.getrandbits(128))))
            elif throw < 0.55:
                await self.ask(self.dice.choice(list(self.model.holds)))
            elif throw < 0.95 or not self.ended:
                await self.end(self.dice.choice(list(self.model.holds)))
            else:
                await self.any_process().release(self.dice.choice(self.ended))
            if step % LOOK_EVERY == 0:
                await self.look()
        await self.look()
        return self.verdicts

    def any_process(self) -> Holds:
        return self.dice.choice(self.processes)

    def levels(self) -> tuple[LimitLevel, ...]:
        within = [LimitLevel(kind, self.dice.choice(ids), self.limits()) for kind, *ids in WITHIN]  # type: ignore[arg-type]
        return (
            LimitLevel("tenant", self.tenant_id, self.limits()),
            *(one for one in within if self.dice.random() < 0.9),
        )

    def limits(self) -> Limits:
        return Limits(*(self.dice.choice(bounds) if self.dice.random() < 0.12 else None for bounds in BOUNDS))

    async def ask(self, request_id: str) -> None:
        levels, model = self.levels(), self.model
        known = model.holds.get(request_id)
        names = tuple("" if level.kind == "tenant" else level.name for level in levels)
        held = known or Held(self.dice.choice(PERIODS), self.dice.randint(0, 900), self.dice.randint(0, 500), names)
        amounts = (held.period, held.tokens, held.micro_yen)
        before = _minute(-0.1)  # a script's clock is the one of the moment its batch was read
        try:
            hold = await self.any_process().reserve(request_id, self.tenant_id, levels, *amounts, "gateway-test")
        except Fault as fault:
            self.verdicts[str(fault.rule)] += 1
            assert known is None
            assert fault.rule in {model.refusal(levels, *amounts, minute) for minute in {before, _minute()}}
            return
        sure = before == _minute()
        if known is None:
            minute = before if sure else await self.stored_minute()
            assert model.refusal(levels, *amounts, minute) == ""
            model.reserve(request_id, held, minute)
            self.verdicts["held"] += 1
        self.compare(hold, levels, before if sure else None)

    async def stored_minute(self) -> int:
        return int(await self.valkey.hget(f"sekisho:rate:{self.tenant_id}", "minute"))

    def compare(self, hold: Hold, levels: Sequence[LimitLevel], minute: int | None) -> None:
        assert _told(hold.tokens_left) == self.model.headroom(levels, "tokens_month", hold.period, 0)
        if minute is not None:
            assert _told(hold.requests_left) == self.model.headroom(levels, "rpm", hold.period, minute)

    async def end(self, request_id: str) -> None:
        held = self.model.holds[request_id]
        used = (0, 0) if self.dice.random() < 0.2 else (self.dice.randint(0, held.tokens), self.dice.randint(0, 500))
        release = Release(request_id, self.tenant_id, held.period, *used)
        await self.any_process().release(release)
        self.model.release(request_id, *used)
        self.ended = [*self.ended[-20:], release]

    async def look(self) -> None:
        """Everything that Valkey keeps of the tenant is what the model keeps."""
        model, tenant_id = self.model, self.tenant_id
        for period in PERIODS:
            expected = {
                name: tuple(amounts) for (name, at), amounts in model.sums.items() if at == period and any(amounts)
            }
            assert await sums(self.valkey, tenant_id, period) == expected
        holds = await self.valkey.hgetall(f"sekisho:holds:{tenant_id}")
        assert {one: _held(text) for one, text in holds.items()} == model.holds
        members = await self.valkey.zrange(f"sekisho:concurrent:{tenant_id}", 0, -1)
        assert set(members) == {f"{name} {one}" for one, held in model.holds.items() for name in held.names if name}
        rate = {name: int(n) for name, n in (await self.valkey.hgetall(f"sekisho:rate:{tenant_id}")).items()}
        expected_rate = {f"{name} n".lstrip(): n for name, n in model.requests.items()}
        assert rate in ({}, {"minute": model.minute, **expected_rate})


def _minute(shift_s: float = 0.0) -> int:
    return int((time.time() + shift_s) // 60)


def _told(headroom: Headroom | None) -> tuple[str, int, int] | None:
    return None if headroom is None else (headroom.kind, headroom.limit, headroom.remaining)


def _held(text: str) -> Held:
    tokens, micro_yen, period, _, _, names = text.split(":", 5)
    return Held(period, int(tokens), int(micro_yen), ("", *names.split()))


async def test_every_verdict_and_every_counter_is_the_models(
    processes: list[Holds], valkey: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("gateway.limits.holds.RELEASE_GRACE_S", 0)
    tenants = [Tenant(processes, valkey, number) for number in range(TENANTS)]
    verdicts: Counter[str] = Counter()
    for counted in await asyncio.gather(*(tenant.live() for tenant in tenants)):
        verdicts += counted
    print(
        f"seed {SEED}: {TENANTS * STEPS} steps, {verdicts['held']} held, {verdicts.total() - verdicts['held']} refused"
    )
    rules = {f"limit:{kind}:{limit}" for kind in ("tenant", "licence", "project", "key") for limit in LIMITS}
    assert set(verdicts) == {"held", *rules}
    assert min(verdicts.values()) > 100
