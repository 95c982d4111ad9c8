"""`sekisho licence new | keygen | sign`: from a template to a licence that both parties have signed. Offline.

Exit codes: 0 good; 1 checked and bad, with the finding's code on the standard output; 2 usage error or could not check.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from gateway.identity.secrets import write_private
from gateway.licensing import inspection
from gateway.licensing.document import LicenceDocument
from gateway.licensing.envelope import Sealed, add_signature, open_envelope, write_envelope
from gateway.licensing.files import SUFFIX, Opened, add_trust_key, open_text, read_text, trust_path
from gateway.licensing.keys import SigningKey
from gateway.licensing.registers import REGISTERS
from gateway.licensing.semantics import check_meaning
from gateway.licensing.templates import TEMPLATES, TemplateError, render_text
from gateway.licensing.terminal import moment, reporting, say, to_json, warn
from gateway.licensing.times import to_us
from gateway.licensing.trust import TrustKey
from gateway.settings import data_dir_of

# Contracts of this house are dated in Japan.
_ZONE = ZoneInfo("Asia/Tokyo")


def register(commands: Any, parents: Sequence[argparse.ArgumentParser]) -> Any:
    """Add `licence` with its offline commands to the command line; returns its subparsers, for those that need the
    admin plane."""
    licence = commands.add_parser("licence", help="licences").add_subparsers(required=True, metavar="ACTION")
    new = licence.add_parser("new", help="a document to edit, from a template", parents=parents)
    new.add_argument("--template", required=True, choices=TEMPLATES)
    new.add_argument("--tenant", help="the licensee")
    new.add_argument("--issuer")
    new.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", type=_setting,
                     help="set a field, such as grants[0].quota.rpm=60; VALUE is JSON or else a string")  # fmt: skip
    new.add_argument("--json", action="store_true", help="JSON instead of YAML with comments")
    new.add_argument("--out", type=Path, help="the standard output by default")
    new.set_defaults(run=reporting(_new))
    keygen = licence.add_parser("keygen", help="a key to sign with", parents=parents)
    keygen.add_argument("--role", required=True, choices=("issuer", "licensee"))
    keygen.add_argument("--party", required=True, help="the issuer's name, or the licensee's tenant")
    keygen.add_argument("--out", required=True, type=Path, help="file for the private key (PEM, mode 0600)")
    keygen.add_argument("--trust", type=Path, help="trust file that gets the public key (data folder's by default)")
    keygen.add_argument("--not-before", type=moment, help="first signing time (default: the start of today in Japan)")
    keygen.set_defaults(run=reporting(_keygen))
    sign = licence.add_parser("sign", help="add a signature to a document or an envelope", parents=parents)
    sign.add_argument("file", type=Path, help="document (JSON or YAML), or an envelope that lacks a signature")
    sign.add_argument("--key", action="append", required=True, type=Path, help="private key; may be given again")
    sign.add_argument("--out", type=Path, help=f"envelope to write (default: FILE with {SUFFIX})")
    sign.set_defaults(run=reporting(_sign))
    inspection.register(licence, parents)
    return licence


def _setting(text: str) -> tuple[str, Any]:
    path, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not PATH=VALUE")
    try:
        return path, json.loads(value)
    except ValueError:
        return path, value


def _new(options: argparse.Namespace) -> int:
    today = _today()
    values: dict[str, Any] = {
        "not_before": today.isoformat(),
        "not_after": _a_year_after(today).isoformat(),
    }
    if options.tenant:
        values |= {"tenant": options.tenant, "licence_id": f"lic-{options.tenant}-{today.year}"[:32]}
    if options.issuer:
        values["issuer"] = options.issuer
    text = render_text(options.template, {**values, **dict(options.set)})
    # Told now rather than when it is signed; an unedited template is in order.
    opened = open_text(text)
    check_meaning(opened.document, REGISTERS)
    if options.json:
        text = to_json(json.loads(opened.payload)) + "\n"
    if options.out is None:
        sys.stdout.write(text)
    else:
        options.out.write_text(text, encoding="utf-8")
    return 0


def _today() -> datetime:
    return datetime.now(_ZONE).replace(hour=0, minute=0, second=0, microsecond=0)


def _a_year_after(day: datetime) -> datetime:
    try:
        return day.replace(year=day.year + 1)
    except ValueError:  # 29 February
        return day.replace(year=day.year + 1, month=3, day=1)


def _keygen(options: argparse.Namespace) -> int:
    key = SigningKey.generate()
    key.write(options.out)
    start = options.not_before or _today()
    trust = options.trust or trust_path(data_dir_of(options.data_dir))
    add_trust_key(trust, TrustKey(key.key_id, options.role, options.party, key.public_bytes, to_us(start)))
    say(key.key_id)
    warn(f"private key {options.out}, public key in {trust}")
    return 0


def _sign(options: argparse.Namespace) -> int:
    keys = [SigningKey.read(path) for path in options.key]
    opened = open_text(read_text(options.file))
    check_meaning(opened.document, REGISTERS)
    out = options.out or _envelope_name(options.file)
    sealed = opened.sealed or _begun(opened, out)
    for key in keys:
        sealed = open_envelope(add_signature(sealed, key))
    write_private(out, sealed.text + "\n")
    say(f"{out}: {_name(opened.document)}, {len(sealed.signatures)} signature(s)")
    return 0


def _begun(opened: Opened, out: Path) -> Sealed:
    """The envelope at `out` if it holds this document, so that no signature is lost; else a new one without any."""
    if out.exists():
        known = open_envelope(read_text(out))
        if known.payload != opened.payload:
            raise TemplateError(f"{out} holds another document ({_name(known.document)}); choose another --out")
        return known
    return open_envelope(write_envelope(opened.payload, []))


def _envelope_name(path: Path) -> Path:
    return path if path.name.endswith(SUFFIX) else path.with_name(path.stem + SUFFIX)


def _name(document: LicenceDocument) -> str:
    return f"{document.licence_id}@{document.version}"
