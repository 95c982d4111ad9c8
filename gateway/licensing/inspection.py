"""`sekisho licence verify | show | diff | export | schema`: what a licence says and whether it is good. Offline."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateway.clock import now_us
from gateway.control.client import find_admin, part
from gateway.faults import Language
from gateway.licensing.describe import describe, printable
from gateway.licensing.diff import Change, diff
from gateway.licensing.document import LicenceDocument
from gateway.licensing.envelope import Sealed, open_envelope
from gateway.licensing.files import Opened, envelope_path, find_envelope, open_text, read_text, trust_path
from gateway.licensing.findings import Finding
from gateway.licensing.odrl import odrl
from gateway.licensing.offline import check_offline, phase, span
from gateway.licensing.registers import REGISTERS
from gateway.licensing.schema import schema_text
from gateway.licensing.terminal import moment, reporting, say, to_json
from gateway.licensing.times import to_us
from gateway.licensing.trust import Trust, load_trust
from gateway.settings import data_dir_of


def register(licence: Any, parents: Sequence[argparse.ArgumentParser]) -> None:
    """Add the commands to `licence`."""
    verify = licence.add_parser("verify", help="whether a licence is good, from files alone", parents=parents)
    verify.add_argument("file", type=Path)
    verify.add_argument("--trust", type=Path, help="trust file (default: <data folder>/licences/trust.json)")
    verify.add_argument("--at", type=moment, help="the time to judge by, RFC 3339 (default: now)")
    verify.add_argument("--json", action="store_true")
    verify.set_defaults(run=reporting(_verify))
    show = licence.add_parser("show", help="a licence in words, and what of it is enforced", parents=parents)
    show.add_argument("licence", metavar="FILE|ID")
    show.add_argument("--lang", choices=("ja", "en"), default="en")
    show.set_defaults(run=reporting(_show))
    compare = licence.add_parser("diff", help="what changed between two licences", parents=parents)
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    compare.add_argument("--json", action="store_true")
    compare.set_defaults(run=reporting(_diff))
    export = licence.add_parser("export", help="a licence in another language of rights", parents=parents)
    export.add_argument("file", type=Path)
    export.add_argument("--odrl", action="store_true", required=True, help="W3C ODRL 2.2, JSON-LD")
    export.set_defaults(run=reporting(_export))
    schema = licence.add_parser("schema", help="the JSON Schema of a licence document", parents=parents)
    schema.set_defaults(run=_schema)


def _verify(options: argparse.Namespace) -> int:
    data_dir = data_dir_of(options.data_dir)
    trust = load_trust(options.trust or trust_path(data_dir))
    now = now_us() if options.at is None else to_us(options.at)
    sealed = open_envelope(read_text(options.file), trust)
    _check(sealed, trust, [options.file.parent, data_dir / "licences"], now)
    facts = _facts(sealed, trust, now)
    say(to_json({"ok": True, **facts}) if options.json else _lines(facts))
    return 0


def _check(sealed: Sealed, trust: Trust, folders: list[Path], now: int) -> None:
    check_offline(sealed, trust, REGISTERS, lambda licence_id: find_envelope(folders, licence_id), now)


def _facts(sealed: Sealed, trust: Trust, now: int) -> dict[str, Any]:
    document = sealed.document
    keys = [trust.keys[signature.key_id] for signature in sealed.signatures]
    return {
        "licence": f"{document.licence_id}@{document.version}",
        "issuer": document.issuer,
        "licensee": f"{document.licensee.tenant} ({document.licensee.legal_name})",
        "validity": span(document.validity),
        "phase": phase(document.validity, now),
        "signatures": [f"{key.role} {key.party} {key.key_id[:16]}" for key in keys],
        "status": "stated" if document.licence_id in trust.licences else "not stated in the trust file",
        "digest": sealed.digest,
    }


def _lines(facts: dict[str, Any]) -> str:
    rows = ((name, ", ".join(value) if isinstance(value, list) else value) for name, value in facts.items())
    return "\n".join(["good", *(f"{name:<10}  {printable(value)}" for name, value in rows)])


def _show(options: argparse.Namespace) -> int:
    data_dir = data_dir_of(options.data_dir)
    path = Path(options.licence)
    if not path.is_file():
        path = envelope_path(data_dir, options.licence)
    opened = open_text(read_text(path)) if path.is_file() else _asked(options.licence, data_dir, options.lang)
    sys.stdout.write(describe(opened.document, REGISTERS, options.lang))
    say(_standing(opened, path.parent, data_dir, options.lang))
    return 0


def _asked(licence_id: str, data_dir: Path, language: Language) -> Opened:
    """The licence as the admin plane has it. Raises `Refused`, or `OSError` where no plane answers."""
    row = find_admin(data_dir, language=language).get(f"/licences/{part(licence_id)}")
    return open_text(row["envelope"] or to_json(row["document"]))


def _standing(opened: Opened, folder: Path, data_dir: Path, language: Language) -> str:
    """One line on the signatures: none, good, or the finding."""
    japanese = language == "ja"
    if opened.sealed is None:
        return "署名: なし（文書のみ）" if japanese else "signatures: none, this is a document only"
    path = trust_path(data_dir)
    if not path.exists():
        return "署名: 未検証（信頼ファイルなし）" if japanese else "signatures: not verified, there is no trust file"
    try:
        _check(opened.sealed, load_trust(path), [folder, data_dir / "licences"], now_us())
    except Finding as finding:
        text = finding.text("ja" if japanese else "en")
        return printable(f"検証: {finding.code}: {text}" if japanese else f"verified: {finding.code}: {text}")
    return "検証: 良好" if japanese else "verified: good"


def _diff(options: argparse.Namespace) -> int:
    changes = diff(_document(options.before), _document(options.after))
    if options.json:
        say(to_json([{"path": item.path, "before": item.before, "after": item.after} for item in changes]))
    else:
        say("\n".join(_change(item) for item in changes) or "no difference")
    return 0


def _change(change: Change) -> str:
    return printable(f"{change.path}: {_short(change.before)} → {_short(change.after)}")


def _short(value: Any) -> str:
    return "–" if value is None else to_json(value, indent=None)


def _export(options: argparse.Namespace) -> int:
    say(to_json(odrl(_document(options.file))))
    return 0


def _schema(_: argparse.Namespace) -> int:
    sys.stdout.write(schema_text())
    return 0


def _document(path: Path) -> LicenceDocument:
    return open_text(read_text(path)).document
