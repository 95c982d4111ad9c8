"""`sekisho tenant raise | raises | unraise | limits`: limits for a while, and how they stand."""

import argparse
from datetime import datetime
from typing import Any

from gateway.control.arguments import LIMITS, Parents, command, listing
from gateway.control.client import AdminClient, part
from gateway.control.terminal import say, say_json, say_rows

_COLUMNS = ("raise_id", "level", "limit_name", "value", "starts_at", "ends_at", "revoked_at", "reason")


def register(tenant: Any, parents: Parents) -> None:
    """Add the commands to `sekisho tenant`."""
    more = command(tenant, "raise", _raise, "a higher limit for a while; it ends by itself", parents)
    more.add_argument("tenant")
    more.add_argument("limit", choices=LIMITS)
    more.add_argument("value", type=int)
    more.add_argument("--until", required=True, type=datetime.fromisoformat, help="RFC 3339 time with an offset")
    more.add_argument("--from", dest="start", type=datetime.fromisoformat, help="RFC 3339 time (now by default)")
    more.add_argument("--level", default="tenant", help="tenant, project:<id>, key:<id> or licence:<licence>/<grant>")
    more.add_argument("--reason", required=True)
    listing(command(tenant, "raises", _raises, "a tenant's raises", parents)).add_argument("tenant")
    command(tenant, "unraise", _revoke, "end a raise before its time", parents).add_argument("raise_id")
    listing(command(tenant, "limits", _limits, "how a tenant's limits stand", parents)).add_argument("tenant")


def _raise(client: AdminClient, options: argparse.Namespace) -> int:
    body = {"level": options.level, "limit_name": options.limit, "value": options.value, "reason": options.reason,
            "ends_at": options.until.isoformat()}  # fmt: skip
    if options.start is not None:
        body["starts_at"] = options.start.isoformat()
    say(client.post(f"/tenants/{part(options.tenant)}/raises", body)["raise_id"])
    return 0


def _raises(client: AdminClient, options: argparse.Namespace) -> int:
    rows = list(client.pages(f"/tenants/{part(options.tenant)}/raises"))
    return say_rows(rows, _COLUMNS, as_json=options.json)


def _revoke(client: AdminClient, options: argparse.Namespace) -> int:
    say(client.post(f"/raises/{part(options.raise_id)}/revoke")["revoked_at"])
    return 0


def _limits(client: AdminClient, options: argparse.Namespace) -> int:
    answer = client.get(f"/tenants/{part(options.tenant)}/limits")
    if options.json:
        say_json(answer)
        return 0
    rows = [
        {**level, "which": limit["limit"], "until": (level["raise"] or {}).get("ends_at"),
         "binds": "binds" if level["name"] == limit["binds"] else "", "reset_at": limit["reset_at"]}
        for limit in answer["limits"] for level in limit["levels"] if level["limit"] is not None
    ]  # fmt: skip
    columns = ("which", "name", "limit", "until", "used", "held", "remaining", "binds", "reset_at")
    return say_rows(rows, columns, as_json=False)
