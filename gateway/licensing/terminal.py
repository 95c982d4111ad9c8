"""How the licence commands answer on a terminal: findings, exit codes, times, JSON."""

import argparse
import json
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

from gateway.control.client import Refused
from gateway.licensing.describe import printable
from gateway.licensing.findings import Finding
from gateway.licensing.keys import KeyFileError
from gateway.licensing.offline import ParentNotFound
from gateway.licensing.templates import TemplateError
from gateway.licensing.trust import TrustFileError

Handler = Callable[[argparse.Namespace], int]


def reporting(handler: Handler) -> Handler:
    """The handler with a finding told as exit code 1 and what prevents checking as exit code 2."""

    def run(options: argparse.Namespace) -> int:
        try:
            return handler(options)
        except Finding as finding:
            tell(finding, as_json=getattr(options, "json", False))
            return 1
        except Refused as refused:
            say(refused.code)
            warn(f"sekisho: {printable(str(refused.error.get('message', '')))}")
            return 1
        except ParentNotFound as missing:
            problem = f"the parent licence {missing.licence_id} was not found beside the file nor in the data folder"
        except (TrustFileError, KeyFileError, TemplateError) as error:
            problem = str(error)
        warn(f"sekisho: {problem}")
        return 2

    return run


def tell(finding: Finding, *, as_json: bool) -> None:
    """Print a finding: its code on the standard output, its texts in both languages on the standard error."""
    if as_json:
        say(to_json({"ok": False, **finding_fields(finding)}))
        return
    say(finding.code)
    for line in (finding.text("en"), finding.cure("en"), finding.text("ja"), finding.cure("ja")):
        warn(printable(line))


def say(text: str) -> None:
    """Lines on the standard output."""
    sys.stdout.write(text + "\n")


def warn(text: str) -> None:
    """Lines on the standard error."""
    sys.stderr.write(text + "\n")


def finding_fields(finding: Finding) -> dict[str, Any]:
    """A finding as JSON values."""
    return {
        "code": finding.code,
        "path": finding.path,
        "detail": finding.detail,
        "text": {"en": finding.text("en"), "ja": finding.text("ja")},
        "cure": {"en": finding.cure("en"), "ja": finding.cure("ja")},
    }


def moment(text: str) -> datetime:
    """An RFC 3339 time with an offset, for argparse."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if parsed.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text!r} has no offset, such as Z or +09:00")
    return parsed


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """JSON for people and programs: Japanese as it is, times as RFC 3339."""
    return json.dumps(value, ensure_ascii=False, indent=indent, default=_moment_text)


def _moment_text(value: object) -> str:
    assert isinstance(value, datetime)
    return value.isoformat()
