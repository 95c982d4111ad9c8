"""`sekisho plan | apply | export -f tenants/`: tenants as code.

Exit codes: 0 good (for `plan` also with changes), 1 refused with every problem at its place, 2 could not check.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.control.arguments import Parents, command
from gateway.control.client import AdminClient, Refused
from gateway.control.code_files import Files, dumped, load
from gateway.control.code_text import diff_lines
from gateway.control.desired import PARTS
from gateway.control.terminal import language, say, say_json, warn
from gateway.identity.secrets import write_private
from gateway.licensing.envelope import open_envelope
from gateway.licensing.files import SUFFIX


def register(commands: Any, parents: Parents) -> None:
    """Add the commands."""
    plan = command(commands, "plan", _plan, "what `apply` would change", parents)
    _files(plan)
    apply = command(commands, "apply", _apply, "bring the book to what the files say, all of it or nothing", parents)
    _files(apply)
    apply.add_argument("--plan-digest", help="refuse when a plan would now differ from the one with this digest")
    apply.add_argument("--epoch", type=int, help="refuse when the configuration is of another epoch")
    export = command(commands, "export", _export, "write the book as files", parents)
    export.add_argument("-f", "--files", type=Path, required=True, help="folder to write, empty or not there yet")


def _files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--files", type=Path, required=True, help="folder of YAML files, or one file")
    parser.add_argument("--json", action="store_true")


def _plan(client: AdminClient, options: argparse.Namespace) -> int:
    return _asked(client, "/plan", load(options.files, language()), {}, as_json=options.json)


def _apply(client: AdminClient, options: argparse.Namespace) -> int:
    conditions = {"plan_digest": options.plan_digest, "epoch": options.epoch}
    given = {name: value for name, value in conditions.items() if value is not None}
    return _asked(client, "/apply", load(options.files, language()), given, as_json=options.json)


def _asked(client: AdminClient, path: str, files: Files, conditions: Mapping[str, Any], *, as_json: bool) -> int:
    if not files.problems:
        try:
            answer = client.post(path, {"desired": files.tree, **conditions})
        except Refused as refused:
            if not refused.error.get("problems"):
                raise
            for problem in refused.error["problems"]:
                files.tell(problem)
        else:
            _say_answer(answer, as_json=as_json)
            return 0
    _say_problems(files, as_json=as_json)
    return 1


def _say_answer(answer: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        say_json(answer)
        return
    for line in diff_lines(answer, language()):
        say(line)
    for key in answer.get("issued", ()):
        say(f"{key['tenant_id']}/{key['label']} {key['key']}")


def _say_problems(files: Files, *, as_json: bool) -> None:
    if as_json:
        say_json({"code": "plan_refused", "problems": [problem.outside() for problem in files.problems]})
        return
    say("plan_refused")
    for problem in files.problems:
        say(problem.line())


def _export(client: AdminClient, options: argparse.Namespace) -> int:
    folder: Path = options.files
    if folder.exists() and any(folder.iterdir()):
        warn(f"sekisho: {folder} is not empty, and an export overwrites nothing")
        return 2
    state = client.get("/export")
    for tenant in state["tenants"]:
        tenant["licences"] = [_licence_file(folder, licence["envelope"]) for licence in tenant.get("licences", ())]
        write_private(folder / f"{tenant['tenant_id']}.yaml", dumped({"v": 1, "tenants": [_filled(tenant)]}))
    shared = {name: state[name] for name in PARTS[1:] if state.get(name)}
    if shared:
        write_private(folder / "_platform.yaml", dumped({"v": 1, **shared}))
    say(f"{len(state['tenants'])} tenants written to {folder}")
    return 0


def _licence_file(folder: Path, envelope: str) -> dict[str, str]:
    """Write an envelope beside the tenants' files; how they name it."""
    name = f"licences/{open_envelope(envelope).document.licence_id}{SUFFIX}"
    write_private(folder / name, envelope + "\n")
    return {"file": name}


def _filled(tenant: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in tenant.items() if value != []}
