"""`sekisho usage`, `sekisho key issue|revoke`, `sekisho licence show`: the operator's commands on the book."""

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg

from billing.usage import GROUPS, UsageQuery, usage
from gateway import settings
from gateway.identity.keys import new_key
from gateway.identity.secrets import load_peppers
from gateway.licensing.document import ENFORCED

Handler = Callable[[Any, argparse.Namespace], Awaitable[int]]


def register(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", parents: Sequence[argparse.ArgumentParser]
) -> None:
    """Add the commands to the command line."""
    show = commands.add_parser("usage", help="a tenant's usage", parents=parents)
    show.add_argument("--tenant", default="demo")
    show.add_argument("--from", dest="start", type=datetime.fromisoformat, help="RFC 3339 time or date")
    show.add_argument("--to", dest="end", type=datetime.fromisoformat, help="RFC 3339 time or date, exclusive")
    show.add_argument("--zone", help="IANA name; the tenant's zone by default")
    show.add_argument("--group-by", default="model", help=f"comma-separated: {', '.join(GROUPS)}")
    show.add_argument("--json", action="store_true")
    show.set_defaults(run=_with_database(_usage))
    key = commands.add_parser("key", help="API keys").add_subparsers(required=True, metavar="ACTION")
    issue = key.add_parser("issue", help="make a key; its text is shown once", parents=parents)
    issue.add_argument("tenant")
    issue.add_argument("--env", default="live", help="environment in the key's text")
    issue.add_argument("--label", default="")
    issue.set_defaults(run=_with_database(_issue))
    revoke = key.add_parser("revoke", help="end a key; gateways know within a second", parents=parents)
    revoke.add_argument("key_id")
    revoke.set_defaults(run=_with_database(_revoke))
    licence = commands.add_parser("licence", help="licences").add_subparsers(required=True, metavar="ACTION")
    show_licence = licence.add_parser("show", help="a licence and what of it is enforced", parents=parents)
    show_licence.add_argument("licence_id")
    show_licence.set_defaults(run=_with_database(_show_licence))


def _with_database(handler: Handler) -> Callable[[argparse.Namespace], int]:
    async def connected(options: argparse.Namespace) -> int:
        stores = settings.load(settings.data_dir_of(options.data_dir))
        connection = await asyncpg.connect(stores.database_url, server_settings={"role": "sekisho_app"})
        try:
            return await handler(connection, options)
        finally:
            await connection.close()

    return lambda options: asyncio.run(connected(options))


async def _usage(connection: Any, options: argparse.Namespace) -> int:
    zone_name = options.zone or await connection.fetchval(
        "SELECT zone FROM tenant WHERE tenant_id = $1", options.tenant
    )
    if zone_name is None:
        return _unknown("tenant", options.tenant)
    zone = ZoneInfo(zone_name)
    now = datetime.now(UTC).astimezone(zone)
    start = options.start or now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    end = options.end or now + timedelta(seconds=1)
    groups = [group for group in options.group_by.split(",") if group]
    try:
        query = UsageQuery(options.tenant, _aware(start, zone), _aware(end, zone), zone_name, groups)
    except ValueError as error:
        print(f"sekisho: {error}; choose from {', '.join(GROUPS)}", file=sys.stderr)
        return 2
    answer = await usage(connection, query)
    print(json.dumps(answer, ensure_ascii=False, indent=2) if options.json else _table(answer))
    return 0


def _aware(at: datetime, zone: ZoneInfo) -> datetime:
    return at if at.tzinfo is not None else at.replace(tzinfo=zone)


def _table(answer: dict[str, Any]) -> str:
    rows = [*answer["rows"], {**answer["totals"], **({"model": "total"} if answer["rows"] else {})}]
    names = list(answer["rows"][0]) if answer["rows"] else list(answer["totals"])
    cells = [[*names[:-1], "yen"], *([*(str(row.get(name, "")) for name in names[:-1]), _yen(row)] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    head = f"{answer['from']} – {answer['to']} ({answer['zone']})"
    return "\n".join(
        [head, *("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)]
    )


def _yen(row: dict[str, Any]) -> str:
    whole, micro = divmod(row["micro_yen"], 1_000_000)
    return f"{whole}.{micro:06d}"


async def _issue(connection: Any, options: argparse.Namespace) -> int:
    if not await connection.fetchval("SELECT true FROM tenant WHERE tenant_id = $1", options.tenant):
        return _unknown("tenant", options.tenant)
    key = new_key(options.env, load_peppers(settings.data_dir_of(options.data_dir)).current)
    await connection.execute(
        "INSERT INTO api_key (key_id, tenant_id, mac, pepper_id, label) VALUES ($1, $2, $3, $4, $5)",
        key.key_id, options.tenant, key.mac, key.pepper_id, options.label,
    )  # fmt: skip
    print(key.text)
    return 0


async def _revoke(connection: Any, options: argparse.Namespace) -> int:
    done = await connection.fetchval(
        "UPDATE api_key SET revoked_at = coalesce(revoked_at, now()) WHERE key_id = $1 RETURNING key_id", options.key_id
    )
    if done is None:
        return _unknown("key", options.key_id)
    print(f"{done} revoked")
    return 0


async def _show_licence(connection: Any, options: argparse.Namespace) -> int:
    row = await connection.fetchrow(
        "SELECT version, document::text AS document, signed, revoked_at FROM licence WHERE licence_id = $1"
        " ORDER BY version DESC LIMIT 1",
        options.licence_id,
    )
    if row is None:
        return _unknown("licence", options.licence_id)
    print(json.dumps(json.loads(row["document"]), ensure_ascii=False, indent=2))
    print(f"signed: {'yes' if row['signed'] else 'no (unsigned: accepted until signed licences replace this form)'}")
    print(f"revoked: {row['revoked_at'] or 'no'}")
    print(f"enforced: {', '.join(ENFORCED)}; every other field: not enforced yet")
    return 0


def _unknown(kind: str, name: str) -> int:
    print(f"{kind}_not_found")
    print(f"sekisho: there is no {kind} {name!r}", file=sys.stderr)
    return 1
