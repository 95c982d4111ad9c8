"""`sekisho usage`: a tenant's usage as the tenant itself sees it, or that of all tenants."""

import argparse
from datetime import datetime
from typing import Any

from billing.usage import FILTERS, GROUPS, OWN_GROUPS
from gateway.control.arguments import Parents, command
from gateway.control.client import AdminClient, part
from gateway.control.terminal import put, say, say_json, warn

# Image, audio and reasoning tokens are parts of the others; --json and --csv have them.
SHOWN = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "micro_yen")


def register(commands: Any, parents: Parents) -> None:
    """Add the command."""
    show = command(commands, "usage", _usage, "usage of a tenant, or of all", parents)
    of = show.add_mutually_exclusive_group()
    of.add_argument("--tenant", default="demo")
    of.add_argument("--all", action="store_true", help="every tenant within reach, and the platform's own account")
    show.add_argument("--from", dest="start", type=datetime.fromisoformat, help="RFC 3339 time or date")
    show.add_argument("--to", dest="end", type=datetime.fromisoformat, help="RFC 3339 time or date, exclusive")
    show.add_argument("--zone", help="IANA name; the tenant's zone by default")
    show.add_argument("--group-by", default="model", help=f"comma-separated: {', '.join(GROUPS)}")
    for name in FILTERS:
        show.add_argument(f"--{name}", help=f"only this {name}")
    form = show.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--csv", action="store_true")


def _usage(client: AdminClient, options: argparse.Namespace) -> int:
    known = GROUPS if options.all else OWN_GROUPS
    groups = [group for group in options.group_by.split(",") if group]
    if not set(groups) <= set(known):
        warn(f"sekisho: unknown group; choose from {', '.join(known)}")
        return 2
    path = "/usage" if options.all else f"/tenants/{part(options.tenant)}/usage"
    asked = {"group_by": ",".join(groups), "zone": options.zone, "from": _text(options.start), "to": _text(options.end),
             **{name: getattr(options, name) for name in FILTERS}}  # fmt: skip
    if options.csv:
        put(client.file(path, format="csv", **asked).body)
        return 0
    answer = client.get(path, **asked)
    if options.json:
        say_json(answer)
    else:
        say(_table(answer))
    return 0


def _text(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def _table(answer: dict[str, Any]) -> str:
    rows, totals = answer["rows"], answer["totals"]
    names = [name for name in rows[0] if name in SHOWN or name not in totals] if rows else list(SHOWN)
    names = [name for name in names if name != "micro_yen"]
    label = {names[0]: "total"} if rows and names[0] not in totals else {}
    lines = [*rows, {**totals, "quantity": totals["prompt_tokens"] + totals["completion_tokens"], **label}]
    cells = [[*names, "yen"], *([*(str(line.get(name, "")) for name in names), _yen(line)] for line in lines)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names) + 1)]
    head = f"{answer['from']} – {answer['to']} ({answer['zone']})"
    told = [head, *("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)]
    told += [_platform(row) for row in answer.get("platform", {}).get("rows", ())]
    return "\n".join(told)


def _platform(row: dict[str, Any]) -> str:
    tokens = f"{row['prompt_tokens']} prompt and {row['completion_tokens']} completion tokens"
    return f"platform, {row['reason']}: {row['attempts']} attempts, {tokens}"


def _yen(row: dict[str, Any]) -> str:
    whole, micro = divmod(row["micro_yen"], 1_000_000)
    return f"{whole}.{micro:06d}"
