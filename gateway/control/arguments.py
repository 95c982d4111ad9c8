"""What the commands that ask the admin plane have in common on the command line."""

import argparse
from collections.abc import Sequence
from typing import Any

from gateway.control.terminal import Handler, asking

LIMITS = ("tokens_month", "micro_yen_month", "rpm", "tpm", "concurrency")
_ALWAYS_OPTIONAL = frozenset({"tpm"})
Parents = Sequence[argparse.ArgumentParser]


def group(commands: Any, name: str, help_text: str) -> Any:
    """A command with actions."""
    return commands.add_parser(name, help=help_text).add_subparsers(required=True, metavar="ACTION")


def command(group: Any, name: str, handler: Handler, help_text: str, parents: Parents) -> argparse.ArgumentParser:
    """An action that asks the admin plane."""
    parser: argparse.ArgumentParser = group.add_parser(name, help=help_text, parents=parents)
    parser.set_defaults(run=asking(handler))
    return parser


def listing(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """An action that prints rows."""
    parser.add_argument("--json", action="store_true")
    return parser


def limits(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """The options of limits."""
    for name in LIMITS:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, required=required and name not in _ALWAYS_OPTIONAL)


def limits_of(options: argparse.Namespace) -> dict[str, int | None]:
    """The limits of the options."""
    return {name: getattr(options, name) for name in LIMITS}
