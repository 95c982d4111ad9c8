"""What the book says of a tenant, compared with what the engine itself recorded, to the token and the micro-yen."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.e2e.stack import Stack, until
from tests.e2e.tenants import CACHED_INPUT_PRICE, INPUT_PRICE, OUTPUT_PRICE

USED = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
DELIVERED = ("settled", "recovered")


@dataclass(frozen=True)
class Spent:
    """A tenant's rows, and the sums of those that were delivered."""

    rows: tuple[Mapping[str, Any], ...]
    tokens: int
    micro_yen: int

    def of(self, *states: str) -> list[Mapping[str, Any]]:
        """The rows in these states."""
        return [row for row in self.rows if row["state"] in states]


def priced(record: Mapping[str, Any]) -> int:
    """What an attempt costs by the card of `tests.e2e.tenants.add_model`."""
    fresh = record["prompt_tokens"] - record["cached_tokens"]
    return int(
        fresh * INPUT_PRICE + record["cached_tokens"] * CACHED_INPUT_PRICE + record["completion_tokens"] * OUTPUT_PRICE
    )


async def all_final(up: Stack, tenant_id: str, within_s: float = 15.0) -> list[dict[str, Any]]:
    """The tenant's rows once none is unfinished."""

    async def find() -> list[dict[str, Any]] | None:
        rows = await up.fetch("SELECT * FROM journal WHERE tenant_id = $1 ORDER BY request_id", tenant_id)
        return rows if all(row["settled_at"] is not None for row in rows) else None

    return await until(find, within_s, f"a row of {tenant_id} stays open")


async def spent(up: Stack, tenant_id: str, *, within_s: float = 15.0, free: bool = False) -> Spent:
    """Waits until the tenant has nothing under way. Then: a delivered row has the engine's counts and their price; any
    other is charged with nothing; ledger and Valkey say the same as the journal; nothing is held; nothing is buried."""
    rows = await all_final(up, tenant_id, within_s)
    for row in rows:
        if row["state"] in DELIVERED:
            record = await up.witness(row["model"], f"{row['request_id']}-{row['attempt']}")
            assert {name: row[name] for name in USED} == {name: record[name] for name in USED}
            assert row["micro_yen"] == (0 if free else priced(record))
        else:
            assert (row["micro_yen"], row["prompt_tokens"], row["completion_tokens"]) == (0, 0, 0)
    tokens = sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows)
    micro_yen = sum(row["micro_yen"] for row in rows)
    await _ledger_agrees(up, tenant_id, micro_yen)
    use = await up.no_holds(tenant_id, within_s)
    if rows:
        assert (use.get("used_tokens", 0), use.get("used_micro_yen", 0)) == (tokens, micro_yen)
        assert use.get("held_tokens", 0) == use.get("held_micro_yen", 0) == 0
    return Spent(tuple(rows), tokens, micro_yen)


async def _ledger_agrees(up: Stack, tenant_id: str, micro_yen: int) -> None:
    sides = await up.fetch(
        "SELECT coalesce(sum(debit), 0)::bigint AS debit, coalesce(sum(credit), 0)::bigint AS credit,"
        " (SELECT count(*) FROM settle_dead) AS buried FROM ledger_entry WHERE tenant_id = $1",
        tenant_id,
    )
    assert sides == [{"debit": micro_yen, "credit": micro_yen, "buried": 0}]
    audits = await up.fetch(
        "SELECT j.request_id FROM journal j LEFT JOIN audit_pending a USING (request_id) WHERE j.tenant_id = $1"
        " GROUP BY 1 HAVING count(a.id) > 1",
        tenant_id,
    )
    assert audits == []
