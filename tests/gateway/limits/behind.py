"""What the store in force keeps of a tenant, Valkey or the book, in one form; and turns from one to the other."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.limits.holds import Holds
from tests.gateway.limits.model import Held

QUANTITIES = ("used_tokens", "held_tokens", "used_micro_yen", "held_micro_yen")


@dataclass
class State:
    """Sums (used and held tokens, used and held micro-yen) by level and month, holds, running requests by level, and
    of the minute requests and tokens by level."""

    sums: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    holds: dict[str, Held] = field(default_factory=dict)
    running: Counter[str] = field(default_factory=Counter)
    minute: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)


async def state_of(valkey: Any, tenant_id: str) -> State:
    """The state in the generation in force; `valkey` is the fixture."""
    mode = (await valkey.book.fetch("SELECT mode, generation, name FROM limits_mode"))[0]
    if mode["mode"] == "valkey":
        return await _in_valkey(valkey, f"sekisho:{mode['name']}", tenant_id)
    return await _in_book(valkey.book, mode["generation"], tenant_id)


async def _in_valkey(valkey: Any, own: str, tenant_id: str) -> State:
    found = State()
    for period in ("202611", "202612"):
        for name, value in (await valkey.hgetall(f"{own}:use:{tenant_id}:{period}")).items():
            level, _, quantity = name.rpartition(" ")
            found.sums.setdefault((level, period), [0] * 4)[QUANTITIES.index(quantity)] = int(value)
    for request_id, hold in (await valkey.hgetall(f"{own}:holds:{tenant_id}")).items():
        tokens, micro_yen, period, _, held_at, names = hold.split(":", 5)
        found.holds[request_id] = Held(
            period, int(tokens), int(micro_yen), ("", *names.split()), int(held_at) // 60
        )  # fmt: skip
    found.running[""] = len(found.holds)
    for member in await valkey.zrange(f"{own}:concurrent:{tenant_id}", 0, -1):
        found.running[member.rpartition(" ")[0]] += 1
    for name, value in (await valkey.hgetall(f"{own}:rate:{tenant_id}")).items():
        level, _, unit = name.rpartition(" ")
        if unit == "minute":
            found.minute = int(value)
        else:
            (found.requests if unit == "n" else found.tokens)[level] = int(value)
    return found


async def _in_book(book: Any, generation: int, tenant_id: str) -> State:
    found = State()
    if not await book.fetch(
        "SELECT FROM limit_book WHERE tenant_id = $1 AND generation = $2", tenant_id, generation
    ):  # fmt: skip
        return found
    for row in await book.fetch("SELECT * FROM limit_use WHERE tenant_id = $1", tenant_id):
        found.sums[row["level"], row["period"]] = [row[quantity] for quantity in QUANTITIES]
    for row in await book.fetch("SELECT * FROM limit_hold WHERE tenant_id = $1", tenant_id):
        found.holds[row["request_id"]] = Held(
            row["period"], row["tokens"], row["micro_yen"], tuple(row["levels"]), row["held_at"] // 60
        )
    rows = await book.fetch("SELECT * FROM limit_now WHERE tenant_id = $1", tenant_id)
    found.minute = max((row["minute"] for row in rows), default=0)
    for row in rows:
        found.running[row["level"]] = row["running"]
        if row["minute"] == found.minute:
            found.requests[row["level"]], found.tokens[row["level"]] = row["requests"], row["tokens"]
    return found


async def turn(processes: Sequence[Holds], how: str, valkey: Any) -> None:
    """Begin a new generation in Valkey or in the book, or make Valkey forget everything (`flush`), which begins one;
    returns when all of `processes` know of it."""
    modes = processes[0].modes
    mode = await modes.admitting()
    if how == "flush":
        await valkey.flushall()
    elif how == "valkey":
        await modes.turn_to_valkey(mode)
    else:
        await modes.turn_to_book(mode)
    for holds in processes:
        await holds.modes.beyond(mode.generation)
        await holds.modes.admitting()
