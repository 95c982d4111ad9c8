"""`sekisho usage`: a tenant's usage, as the tenant itself sees it."""

import argparse
from datetime import datetime
from typing import Any

from billing.usage import GROUPS
from gateway.control.arguments import Parents, command
from gateway.control.client import AdminClient, part
from gateway.control.terminal import say, say_json, warn


def register(commands: Any, parents: Parents) -> None:
    """Add the command."""
    show = command(commands, "usage", _usage, "a tenant's usage", parents)
    show.add_argument("--tenant", default="demo")
    show.add_argument("--from", dest="start", type=datetime.fromisoformat, help="RFC 3339 time or date")
    show.add_argument("--to", dest="end", type=datetime.fromisoformat, help="RFC 3339 time or date, exclusive")
    show.add_argument("--zone", help="IANA name; the tenant's zone by default")
    show.add_argument("--group-by", default="model", help=f"comma-separated: {', '.join(GROUPS)}")
    show.add_argument("--json", action="store_true")


def _usage(client: AdminClient, options: argparse.Namespace) -> int:
    groups = [group for group in options.group_by.split(",") if group]
    if not set(groups) <= set(GROUPS):
        warn(f"sekisho: unknown group; choose from {', '.join(GROUPS)}")
        return 2
    answer = client.get(
        f"/tenants/{part(options.tenant)}/usage",
        group_by=",".join(groups),
        zone=options.zone,
        **{"from": _text(options.start), "to": _text(options.end)},
    )
    if options.json:
        say_json(answer)
    else:
        say(_table(answer))
    return 0


def _text(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


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
