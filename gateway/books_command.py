"""`sekisho reconcile`: the nightly comparison of the books by hand, for any span of days."""

import sys
from datetime import UTC, date, datetime, timedelta

import asyncpg

from billing.reconcile import Reconciliation, reconcile
from gateway.books import NIGHT, RECONCILE_S_MAX, midnight

DAYS_DEFAULT = 31


async def reconcile_command(dsn: str, start: str | None, end: str | None) -> int:
    """Compare and print. Returns 0 when nothing was found, 1 when something was (its code is on stdout), 2 for a span
    that is none. Raises `OSError` when the database is away."""
    today = datetime.now(NIGHT).date()
    try:
        last = today + timedelta(days=1) if end is None else date.fromisoformat(end)
        first = last - timedelta(days=DAYS_DEFAULT) if start is None else date.fromisoformat(start)
        if not first < last:
            raise ValueError(f"{first} is not before {last}")
    except ValueError as error:
        sys.stderr.write(f"sekisho reconcile: {error}: name days as 2026-11-01\n")
        return 2
    found = await _reconcile(dsn, midnight(first), midnight(last))
    sys.stdout.write(_text(found) + "\n")
    return 1 if found.findings else 0


async def _reconcile(dsn: str, start: datetime, end: datetime) -> Reconciliation:
    connection = await asyncpg.connect(
        dsn, command_timeout=RECONCILE_S_MAX, server_settings={"role": "sekisho_auditor", "timezone": "UTC"}
    )
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return await reconcile(connection, start, end)
    finally:
        await connection.close()


def _text(found: Reconciliation) -> str:
    span = f"{found.start.astimezone(NIGHT):%Y-%m-%d} to {found.end.astimezone(NIGHT):%Y-%m-%d} (Asia/Tokyo)"
    kinds = ("prompt", "cached", "image", "audio", "completion", "reasoning")
    head = f"{'':<18}" + "".join(f"{kind:>16}" for kind in kinds)
    lines = [f"{span}, at {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "", head]
    for name, used in (("engines' records", found.witness), ("tenants", found.tenants), ("platform", found.platform)):
        lines.append(f"{name:<18}" + "".join(f"{getattr(used, kind):>16,}" for kind in kinds))
    lines += ["", "uncertain (charged by the last count received): {:,} requests, {:,} tokens".format(*found.uncertain)]
    lines += ["", *(f"{one.code}: {one.count}: {', '.join(one.examples)}" for one in found.findings)]
    lines.append(f"{len(found.findings)} findings")
    return "\n".join(lines)
