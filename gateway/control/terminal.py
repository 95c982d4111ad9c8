"""How commands that ask the admin plane find it, answer, and exit: 0 good, 1 refused (the code on the standard output),
2 usage error or not reachable."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway.control.client import AdminClient, Refused, find_admin
from gateway.faults import Language
from gateway.licensing.files import read_text
from gateway.licensing.findings import Finding
from gateway.settings import data_dir_of

Handler = Callable[[AdminClient, argparse.Namespace], int]


def asking_options() -> argparse.ArgumentParser:
    """The options of every command that asks the admin plane, as a parent parser."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("--admin-url", help="SEKISHO_ADMIN_URL, else the plane of `sekisho up`")
    parent.add_argument("--admin-key-file", type=Path, help="SEKISHO_ADMIN_KEY, else the key of `sekisho up`")
    return parent


def asking(handler: Handler) -> Callable[[argparse.Namespace], int]:
    """The handler with a client, and with refusals told as exit codes."""

    def run(options: argparse.Namespace) -> int:
        try:
            client = find_admin(
                data_dir_of(options.data_dir),
                url=options.admin_url,
                key_file=options.admin_key_file,
                language=language(),
            )
            return handler(client, options)
        except Refused as refused:
            tell_refusal(refused)
            return 1
        except (OSError, UnicodeError) as problem:
            warn(f"sekisho: {problem}")
            return 2

    return run


def file_text(path: Path) -> str:
    """The text of a file that is to be sent. Raises `OSError`, also where it is too large or no text."""
    try:
        return read_text(path)
    except Finding as finding:
        what = "is too large" if finding.code == "envelope_too_large" else "cannot be read"
        raise OSError(f"{path} {what}: {finding.detail}") from None


def file_json(path: Path) -> Any:
    """The JSON in a file that is to be sent. Raises `OSError`, also where there is none."""
    try:
        return json.loads(file_text(path))
    except (ValueError, RecursionError) as error:
        raise OSError(f"{path} holds no JSON: {error}") from None


def language() -> Language:
    """The language of the person's environment."""
    locale = os.environ.get("LC_ALL") or os.environ.get("LC_MESSAGES") or os.environ.get("LANG") or ""
    return "ja" if locale.startswith("ja") else "en"


def tell_refusal(refused: Refused) -> None:
    """The code on the standard output, the rest on the standard error."""
    error = refused.error
    say(refused.code)
    where = f"{error['param']}: " if error.get("param") else ""
    warn(f"sekisho: {where}{error.get('message', '')}\n{error.get('cure', '')}")
    for problem in error.get("problems") or ():
        warn(f"  {problem['path']}: {problem['code']}: {problem['message']}")


def say(text: str) -> None:
    """One line on the standard output."""
    sys.stdout.write(printable(text) + "\n")


def warn(text: str) -> None:
    """One line on the standard error."""
    sys.stderr.write(printable(text) + "\n")


def put(body: bytes) -> None:
    """A file on the standard output, as it is."""
    sys.stdout.flush()
    sys.stdout.buffer.write(body)
    sys.stdout.buffer.flush()


def printable(text: str) -> str:
    """`text` without characters that move a terminal's cursor or hide what follows."""
    return "".join(char if char.isprintable() or char in "\n\t" else f"\\u{ord(char):04x}" for char in text)


def say_json(value: Any) -> None:
    """JSON for people and programs."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def say_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> int:
    """Rows as a table of `columns`, or as JSON."""
    if as_json:
        say_json(list(rows))
        return 0
    cells = [list(columns), *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(columns))]
    for line in cells:
        say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return 0


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
