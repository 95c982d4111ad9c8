"""`sekisho contribution`, `sekisho model` and `sekisho priority`: what priority follows from, and how it stands.

`priority sign` is offline, all others ask the admin plane.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.control.arguments import Parents, command, group, listing
from gateway.control.client import AdminClient, part
from gateway.control.terminal import file_text, language, say, say_json, say_rows
from gateway.faults import Language
from gateway.identity.secrets import write_private
from gateway.licensing.envelope import add_signature, canonical, read_envelope, write_envelope
from gateway.licensing.files import SUFFIX, read_text
from gateway.licensing.keys import SigningKey
from gateway.licensing.reading import read_document
from gateway.licensing.terminal import reporting
from gateway.priority.policy import PAYLOAD_TYPE, open_policy
from gateway.priority.rules import share_text

_CONTRIBUTION = ("contributor", "hojin_bangou", "industry", "data_contract", "data_class", "contributed_at")
_LINE: Mapping[Language, str] = {
    "en": "{tenant}, {model}@{model_version} at {at}: {served}, group {group}, weight {weight} of owner {owner}, band"
    " {band}; floor for everyone {floor} (policy {policy}){window}",
    "ja": "{tenant}、{model}@{model_version}、{at}：{served}、枠 {group}、所有者 {owner} の重み {weight}、帯域 {band}。"
    "全員のための最低枠 {floor}（方針 {policy}）{window}",
}
_SERVED: Mapping[Language, tuple[str, str]] = {"en": ("closed for now", "open"), "ja": ("現在は対象外", "利用可")}
_OWN: Mapping[Language, str] = {"en": "; exclusive until {until}", "ja": "。{until} まで独占"}


def register(commands: Any, parents: Parents) -> None:
    """Add the commands."""
    contribution = group(commands, "contribution", "data that owners have contributed")
    listing(command(contribution, "list", _contributions, "all contributions", parents))
    add = command(contribution, "add", _add, "register a contribution", parents)
    add.add_argument("contribution_id")
    for name in _CONTRIBUTION:
        add.add_argument(f"--{name.replace('_', '-')}", required=True)
    withdraw = command(contribution, "withdraw", _withdraw, "end what follows from a contribution, for good", parents)
    withdraw.add_argument("contribution_id")
    model = group(commands, "model", "model versions and what they derive from")
    listed = listing(command(model, "list", _models, "the registered model versions", parents))
    listed.add_argument("--model")
    enter = command(model, "register", _register, "register a model version, or correct its lineage", parents)
    enter.add_argument("release", metavar="MODEL@VERSION")
    enter.add_argument("--origin", choices=("national_base", "derived"), default="derived")
    enter.add_argument("--base-model", default="", help="what it was trained from")
    enter.add_argument("--contribution", action="append", default=[], help="an id; may be given again")
    _register_priority(group(commands, "priority", "the terms of priority, and how a tenant stands"), parents)


def _register_priority(priority: Any, parents: Parents) -> None:
    explain = listing(command(priority, "explain", _explain, "a tenant's group, weight, window, and why", parents))
    explain.add_argument("tenant")
    explain.add_argument("model", help="name, or name@version")
    explain.add_argument("--at", help="RFC 3339 time (now by default)")
    sign = priority.add_parser("sign", help="add a signature to a policy, offline", parents=parents)
    sign.add_argument("file", type=Path, help="policy (JSON or YAML), or an envelope that lacks a signature")
    sign.add_argument("--key", action="append", required=True, type=Path, help="private key; may be given again")
    sign.add_argument("--out", type=Path, help=f"envelope to write (default: FILE with {SUFFIX})")
    sign.set_defaults(run=reporting(_sign))
    submit = command(priority, "submit", _submit, "enter a policy that both parties have signed", parents)
    submit.add_argument("file", type=Path)
    listing(command(priority, "policies", _policies, "all signed policies", parents))


def _contributions(client: AdminClient, options: argparse.Namespace) -> int:
    columns = ("contribution_id", *_CONTRIBUTION, "withdrawn_at")
    return say_rows(list(client.pages("/contributions")), columns, as_json=options.json)


def _add(client: AdminClient, options: argparse.Namespace) -> int:
    fields = {name: getattr(options, name) for name in ("contribution_id", *_CONTRIBUTION)}
    say(client.post("/contributions", fields)["contribution_id"])
    return 0


def _withdraw(client: AdminClient, options: argparse.Namespace) -> int:
    say(client.post(f"/contributions/{part(options.contribution_id)}/withdraw")["withdrawn_at"])
    return 0


def _models(client: AdminClient, options: argparse.Namespace) -> int:
    columns = ("model", "model_version", "origin", "base_model", "contributions")
    return say_rows(list(client.pages("/models", model=options.model)), columns, as_json=options.json)


def _register(client: AdminClient, options: argparse.Namespace) -> int:
    model, _, version = options.release.partition("@")
    body = {"model": model, "model_version": version, "origin": options.origin, "base_model": options.base_model,
            "contributions": options.contribution}  # fmt: skip
    row = client.post("/models", body)
    say(f"{row['model']}@{row['model_version']}")
    return 0


def _explain(client: AdminClient, options: argparse.Namespace) -> int:
    found = client.get(f"/tenants/{part(options.tenant)}/priority", model=options.model, at=options.at)
    if options.json:
        say_json(found)
        return 0
    spoken = language()
    own = found["window"] is not None and found["window"]["own"]
    window = _OWN[spoken].format(until=found["window"]["until"]) if own else ""
    told = {**found, "served": _SERVED[spoken][found["open"]], "floor": share_text(found["floor_permille"]),
            "window": window}  # fmt: skip
    say(_LINE[spoken].format(**told))
    for reason in found["why"]:
        say(f"  {reason['rule']}  {reason['text']}")
    return 0


def _sign(options: argparse.Namespace) -> int:
    keys = [SigningKey.read(path) for path in options.key]
    text = read_text(options.file)
    if '"payloadType":' not in text:
        text = write_envelope(canonical(read_document(text)), [], PAYLOAD_TYPE)
    for key in keys:
        text = add_signature(read_envelope(text, PAYLOAD_TYPE), key)
    sealed = open_policy(text)
    name = options.file.name
    out = options.out or options.file.with_name(name if name.endswith(SUFFIX) else options.file.stem + SUFFIX)
    write_private(out, text + "\n")
    say(f"{out}: policy {sealed.document.version}, {len(sealed.enclosed.signatures)} signature(s)")
    return 0


def _submit(client: AdminClient, options: argparse.Namespace) -> int:
    row = client.post("/priority/policies", {"envelope": file_text(options.file)})
    say(f"policy {row['version']}, effective from {row['effective_from']}")
    return 0


def _policies(client: AdminClient, options: argparse.Namespace) -> int:
    rows = [{**row, **row["document"]} for row in client.pages("/priority/policies")]
    columns = ("version", "effective_from", "issuer", "approver", "floors", "weights", "exclusivity_months_max",
               "discount_permille_max", "notice_days")  # fmt: skip
    return say_rows(rows, columns, as_json=options.json)
