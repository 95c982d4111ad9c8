"""`python -m loadtests.settle_bench`: settlements per second into PostgreSQL, through the product's own journal.

One process settles as a gateway does: each waiting settlement is put, and the next one when it is stored; what waits at
the same moment shares a statement and a flush to disk (group commit). Every settlement books three price lines on both
sides of the ledger, an audit record and an outbox row. One in flight is one row per commit: what there would be without
group commit. The control is the settlement of `BASE`, the last revision that knew neither outbox nor booking time, in
the same rounds. Table on stdout, `reports/settle.json`. Exit codes: 0 fast enough; 1 not; 2 could not measure.
"""

import ast
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import asyncpg
import uuid_utils

from billing import journal as journal_module
from billing.invoices.period import month_of
from billing.invoices.service import _seal
from billing.journal import Journal
from billing.rating import RateCard, rate
from billing.types import OpenRow, Outcome, Settlement, Usage
from gateway.clock import now_us
from loadtests.processes import Unmeasurable
from loadtests.report import table, write_report
from loadtests.stack import ROOT, scratch
from loadtests.stores import stores

BASE = "0372d34"
PER_S_MIN = 1_000
ROUNDS = 5
TENANTS = 40
SEAL_EVERY_S = 0.01
SETTINGS = (
    "server_version", "fsync", "synchronous_commit", "full_page_writes", "wal_sync_method", "wal_level",
    "shared_buffers", "max_wal_size", "commit_delay",
)  # fmt: skip
CARD = RateCard("card-1", "model-1", 0, None, input_price=120, cached_input_price=60, output_price=480)
USAGE = Usage(prompt=900, cached=300, completion=250, reasoning=40)
AUDIT = '{"v":1,"pad":"' + "x" * 420 + '"}'  # as long as a usual record


@dataclass(frozen=True, slots=True)
class Plan:
    """What one round does. `sealing`: another session moves the account's watermark as closing does, every 10 ms."""

    in_flight: int
    settlements: int
    tenants: int = TENANTS
    sealing: bool = False


TARGET = Plan(512, 8_000)
PLANS = (
    Plan(1, 400), Plan(16, 2_000), Plan(128, 6_000), TARGET, Plan(512, 4_000, tenants=1),
    Plan(512, 4_000, tenants=1, sealing=True),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report: medians of the rounds; `batch` is settlements per statement."""

    in_flight: int
    tenants: int
    sealing: bool
    per_s: float
    batch: float
    p99_ms: float
    control_per_s: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Measured:
    """One round of one statement."""

    per_s: float
    batch: float
    p99_ms: float


def main() -> int:
    """Measure, print, write; the exit code."""
    try:
        with scratch("settle") as folder:
            rows, settings = asyncio.run(_measure_all(folder, _settle_of_base()))
    except Unmeasurable as error:
        print(f"settle_bench: {error}", file=sys.stderr)
        return 2
    lines = [
        (str(row.in_flight), f"{row.tenants}{', sealing' if row.sealing else ''}", f"{row.per_s:,.0f}",
         f"{row.batch:.0f}", f"{row.p99_ms:.1f}", f"{row.control_per_s:,.0f}", f"{row.ratio:.2f}")
        for row in rows
    ]  # fmt: skip
    print(table(("in flight", "tenants", "settlements/s", "rows/commit", "p99 ms", f"of {BASE}", "ratio"), lines))
    print("PostgreSQL: " + ", ".join(f"{name} = {value}" for name, value in settings.items()))
    best = rows[PLANS.index(TARGET)].per_s
    fast = best >= PER_S_MIN
    print(f"{'pass' if fast else 'FAIL'}  settlements per second: {best:,.0f} (at least {PER_S_MIN:,})")
    figures = {"rows": [asdict(row) for row in rows], "settlements_per_s": best, "postgresql": settings}
    print(f"\n{write_report('settle', figures, f'the settlement of {BASE} in the same rounds', {})}")
    return 0 if fast else 1


def _settle_of_base() -> str:
    shown = subprocess.run(
        ["git", "show", f"{BASE}:billing/journal.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if shown.returncode != 0:
        raise Unmeasurable(f"this clone does not hold revision {BASE}: fetch the whole history")
    for node in ast.parse(shown.stdout).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "SETTLE":
            return str(ast.literal_eval(node.value))
    raise Unmeasurable(f"billing/journal.py of {BASE} has no SETTLE")


async def _measure_all(folder: Path, base: str) -> tuple[list[Row], dict[str, str]]:
    present = journal_module.SETTLE
    rounds: dict[Plan, list[tuple[Measured, Measured]]] = {plan: [] for plan in PLANS}
    async with stores(folder / "data") as found_at:
        dsn = found_at.dsn
        settings = await _prepare(dsn)
        for number in range(ROUNDS + 1):
            for plan in PLANS:
                # The order changes, so that neither always finds the other's buffers; the first round warms up.
                order = (present, base) if number % 2 else (base, present)
                measured = {text: await _measure(dsn, text, plan) for text in order}
                if number:
                    rounds[plan].append((measured[present], measured[base]))
    return [_row(plan, pairs) for plan, pairs in rounds.items()], settings


def _row(plan: Plan, pairs: Sequence[tuple[Measured, Measured]]) -> Row:
    return Row(
        plan.in_flight,
        plan.tenants,
        plan.sealing,
        statistics.median(ours.per_s for ours, _ in pairs),
        statistics.median(ours.batch for ours, _ in pairs),
        statistics.median(ours.p99_ms for ours, _ in pairs),
        statistics.median(theirs.per_s for _, theirs in pairs),
        statistics.median(ours.per_s / theirs.per_s for ours, theirs in pairs),
    )


async def _prepare(dsn: str) -> dict[str, str]:
    """Tenants, and the settings of the server as they are."""
    connection = await asyncpg.connect(dsn)
    try:
        for number in range(TENANTS):
            await connection.execute(
                "INSERT INTO tenant (tenant_id, legal_name, tokens_month, micro_yen_month, rpm, concurrency)"
                " VALUES ($1, $1, 0, 0, 0, 0)",
                f"tenant-{number}",
            )
        return {name: await connection.fetchval(f"SHOW {name}") for name in SETTINGS}
    finally:
        await connection.close()


@asynccontextmanager
async def _sealing(dsn: str) -> AsyncIterator[None]:
    """The first transaction of a closing, again and again, of a month long past."""
    connection = await asyncpg.connect(dsn)
    month = month_of("2026-01", "Asia/Tokyo")

    async def seal() -> None:
        while True:
            async with connection.transaction():
                await _seal(connection, "tenant-0", month)
            await asyncio.sleep(SEAL_EVERY_S)

    task = asyncio.create_task(seal())
    try:
        yield
        if task.done():
            task.result()  # it never ends by itself but with an error
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await connection.close()


async def _measure(dsn: str, settle: str, plan: Plan) -> Measured:
    journal_module.SETTLE = settle
    journal = Journal(dsn)
    statements = 0
    store = journal._store_settlements

    async def counted(batch: Sequence[Settlement]) -> object:
        nonlocal statements
        statements += 1
        return await store(batch)

    journal.settlements._flush = counted  # type: ignore[assignment] # the same, counted
    rows = [_open_row(number % plan.tenants) for number in range(plan.settlements)]
    try:
        await asyncio.gather(*(journal.opens.put(row) for row in rows))
        waiting = [_settlement(row) for row in rows]
        waits: list[float] = []
        async with _sealing(dsn) if plan.sealing else nullcontext():
            started = time.perf_counter()
            await asyncio.gather(*(_settle(journal, waiting, waits) for _ in range(plan.in_flight)))
            spent = time.perf_counter() - started
    finally:
        await journal.close()
    waits.sort()
    return Measured(plan.settlements / spent, plan.settlements / statements, 1_000 * waits[int(0.99 * len(waits))])


async def _settle(journal: Journal, waiting: list[Settlement], waits: list[float]) -> None:
    while waiting:
        settlement = waiting.pop()
        asked = time.perf_counter()
        if not await journal.settlements.put(settlement):
            raise Unmeasurable(f"{settlement.request_id} was not settled")
        waits.append(time.perf_counter() - asked)


def _open_row(tenant: int) -> OpenRow:
    return OpenRow(
        request_id=str(uuid_utils.uuid7()), tenant_id=f"tenant-{tenant}", key_id="k" * 12, project_id="",
        model="model-1", model_version="1.0.0", action="chat", purpose="general", data_class="restricted",
        country="JP", region="jp-east", tier="heavy", site="site-1", upstream_id="u1", rule_id="lic/g1",
        licence_id="lic", licence_version=1, epoch=7, rate_card_id="card-1", instance_id="gateway-1", period="202611",
        stream=True, held_tokens=2_000, held_micro_yen=480_000, opened_at=now_us(),
    )  # fmt: skip


def _settlement(row: OpenRow) -> Settlement:
    at = now_us()
    return Settlement(
        request_id=row.request_id, tenant_id=row.tenant_id, state="settled", outcome=Outcome.COMPLETED, code="",
        http_status=200, finish_reason="stop", attempt=1, usage=USAGE, source="engine", lines=rate(USAGE, CARD),
        first_byte_at=at, settled_at=at, audit_record=AUDIT,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
