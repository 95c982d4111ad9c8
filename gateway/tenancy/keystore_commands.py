"""`sekisho tenant-key`: the tenants' encryption keys, by whoever has the data folder."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from gateway.settings import data_dir_of
from gateway.tenancy.keystore import KeyFiles


def register(actions: Any, parents: Sequence[argparse.ArgumentParser]) -> None:
    """Add the actions."""
    rotate = actions.add_parser("rotate", help="seal with a new key from now on; what is sealed stays", parents=parents)
    rotate.add_argument("tenant")
    rotate.set_defaults(run=_rotate)
    destroy = actions.add_parser(
        "destroy", help="make everything that was sealed for the tenant unreadable, for good", parents=parents
    )
    destroy.add_argument("tenant")
    destroy.add_argument("--yes", action="store_true", help="required: nothing brings it back")
    destroy.set_defaults(run=_destroy)


def _rotate(options: argparse.Namespace) -> int:
    return _told(options, lambda keys: keys.rotate(options.tenant))


def _destroy(options: argparse.Namespace) -> int:
    if not options.yes:
        sys.stderr.write("sekisho: nothing brings a destroyed key back; say --yes\n")
        return 2
    return _told(options, lambda keys: f"{keys.destroy(options.tenant)} keys of {options.tenant} destroyed")


def _told(options: argparse.Namespace, act: Any) -> int:
    try:
        text = act(KeyFiles(data_dir_of(options.data_dir)))
    except ValueError as error:
        sys.stderr.write(f"sekisho: {error}\n")
        return 2
    sys.stdout.write(f"{text}\n")
    return 0
