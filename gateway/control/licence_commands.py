"""`sekisho licence submit | list | revoke | simulate`: the licence commands that need the book."""

import argparse
import json
from pathlib import Path
from typing import Any

from gateway.control.arguments import Parents, command, listing
from gateway.control.client import AdminClient, part
from gateway.control.terminal import file_text, language, say, say_json, say_rows, warn
from gateway.licensing.files import open_text, read_text
from gateway.licensing.findings import Finding


def register(licence: Any, parents: Parents) -> None:
    """Add the commands to `sekisho licence`."""
    submit = command(licence, "submit", _submit, "put a signed licence into force", parents)
    submit.add_argument("file", type=Path)
    listed = listing(command(licence, "list", _licences, "the newest version of each licence", parents))
    listed.add_argument("--tenant")
    revoke = command(licence, "revoke", _revoke_licence, "end a licence for good, and what is cut from it", parents)
    revoke.add_argument("licence_id")
    revoke.add_argument("--reason", required=True)
    simulate = command(licence, "simulate", _simulate, "what a changed licence would have decided otherwise", parents)
    simulate.add_argument("file", type=Path, help="envelope, or a document that nobody has signed yet")
    simulate.add_argument("--from", dest="start", help="RFC 3339 time (30 days ago by default)")
    simulate.add_argument("--to", dest="end", help="RFC 3339 time, exclusive (now by default)")
    simulate.add_argument("--at", help="RFC 3339 time to ask all decisions at, for a licence that begins later")
    simulate.add_argument("--json", action="store_true")


def _submit(client: AdminClient, options: argparse.Namespace) -> int:
    row = client.post("/licences", {"envelope": file_text(options.file)})
    say(f"{row['licence_id']}@{row['version']} {row['digest']}")
    for notice in row["notices"]:
        warn(f"{notice['path']}: {notice['code']}: {notice['message']}\n{notice['cure']}")
    return 0


def _licences(client: AdminClient, options: argparse.Namespace) -> int:
    rows = list(client.pages("/licences", tenant=options.tenant))
    columns = ("licence_id", "version", "tenant_id", "parent_licence_id", "created_at", "revoked_at", "revoke_reason")
    return say_rows(rows, columns, as_json=options.json)


def _revoke_licence(client: AdminClient, options: argparse.Namespace) -> int:
    row = client.post(f"/licences/{part(options.licence_id)}/revoke", {"reason": options.reason})
    say(f"{row['licence_id']}@{row['version']} revoked")
    return 0


def _simulate(client: AdminClient, options: argparse.Namespace) -> int:
    try:
        opened = open_text(read_text(options.file))
    except Finding as finding:
        say(finding.code)
        warn(f"sekisho: {finding.text(language())}\n{finding.cure(language())}")
        return 1
    times = {"from": options.start, "to": options.end, "at": options.at}
    answer = client.post(
        "/licences/simulate",
        {"document": json.loads(opened.payload), **{name: at for name, at in times.items() if at is not None}},
    )
    if options.json:
        say_json(answer)
    else:
        say(answer["text"])
    return 0
