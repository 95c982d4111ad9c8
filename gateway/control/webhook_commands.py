"""`sekisho webhook`."""

import argparse
from typing import Any

from gateway.control.arguments import Parents, command, group, listing
from gateway.control.client import AdminClient, part
from gateway.control.terminal import say, say_rows


def register(commands: Any, parents: Parents) -> None:
    """Add the commands."""
    webhook = group(commands, "webhook", "where a tenant is told what happens")
    add = command(webhook, "add", _add, "a new webhook; id and secret, which is shown once", parents)
    add.add_argument("tenant")
    add.add_argument("url")
    add.add_argument("--event", action="append", help="only this type of event; may be given again")
    add.add_argument("--label", default="")
    listing(command(webhook, "list", _webhooks, "a tenant's webhooks", parents)).add_argument("tenant")
    rotate = command(webhook, "rotate", _rotate, "a new secret, shown once", parents)
    rotate.add_argument("webhook")
    rotate.add_argument("--overlap-s", type=int, default=86_400, help="seconds that the old secret signs too")
    command(webhook, "delete", _delete, "end a webhook for good", parents).add_argument("webhook")
    command(webhook, "test", _test, "send it a test event", parents).add_argument("webhook")
    listing(command(webhook, "deliveries", _deliveries, "newest first", parents)).add_argument("webhook")
    again = command(webhook, "redeliver", _redeliver, "deliver an event once more", parents)
    again.add_argument("webhook")
    again.add_argument("event")
    for name, disabled in (("disable", True), ("enable", False)):
        switch = command(webhook, name, _switch, f"{name} a webhook; what waits for it is kept", parents)
        switch.add_argument("webhook")
        switch.set_defaults(disabled=disabled)


def _add(client: AdminClient, options: argparse.Namespace) -> int:
    body = {"url": options.url, "events": options.event, "label": options.label}
    made = client.post(f"/tenants/{part(options.tenant)}/webhooks", body)
    say(f"{made['endpoint_id']} {made['secret']}")
    return 0


def _webhooks(client: AdminClient, options: argparse.Namespace) -> int:
    rows = list(client.pages(f"/tenants/{part(options.tenant)}/webhooks"))
    columns = ("endpoint_id", "url", "events", "label", "disabled_at", "disabled_reason", "deleted_at")
    return say_rows(rows, columns, as_json=options.json)


def _rotate(client: AdminClient, options: argparse.Namespace) -> int:
    say(client.post(f"/webhooks/{part(options.webhook)}/rotate", {"overlap_s": options.overlap_s})["secret"])
    return 0


def _delete(client: AdminClient, options: argparse.Namespace) -> int:
    say(f"{client.delete(f'/webhooks/{part(options.webhook)}')['endpoint_id']} deleted")
    return 0


def _test(client: AdminClient, options: argparse.Namespace) -> int:
    say(client.post(f"/webhooks/{part(options.webhook)}/test")["event_id"])
    return 0


def _deliveries(client: AdminClient, options: argparse.Namespace) -> int:
    rows = client.get(f"/webhooks/{part(options.webhook)}/deliveries")["data"]
    columns = ("event_id", "type", "status", "attempts", "last_at", "last_status", "last_error", "next_at")
    return say_rows(rows, columns, as_json=options.json)


def _redeliver(client: AdminClient, options: argparse.Namespace) -> int:
    body = {"event_id": options.event}
    say(client.post(f"/webhooks/{part(options.webhook)}/redeliver", body)["event_id"])
    return 0


def _switch(client: AdminClient, options: argparse.Namespace) -> int:
    body = {"disabled": options.disabled}
    row = client.patch(f"/webhooks/{part(options.webhook)}", body)
    say(f"{row['endpoint_id']} {'disabled' if options.disabled else 'enabled'}")
    return 0
