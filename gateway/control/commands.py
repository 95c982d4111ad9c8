"""The commands that ask the admin plane: nothing that an operator does passes it by."""

import argparse
from collections.abc import Sequence
from typing import Any

from gateway.control import (
    code_commands,
    credential_commands,
    invoice_commands,
    licence_commands,
    priority_commands,
    tenant_commands,
    usage_command,
    webhook_commands,
)
from gateway.control.terminal import asking_options


def register(commands: Any, licence: Any, parents: Sequence[argparse.ArgumentParser]) -> None:
    """Add the commands; `licence` are the subparsers of `sekisho licence`."""
    parents = [*parents, asking_options()]
    usage_command.register(commands, parents)
    invoice_commands.register(commands, parents)
    code_commands.register(commands, parents)
    tenant_commands.register(commands, parents)
    credential_commands.register(commands, parents)
    webhook_commands.register(commands, parents)
    priority_commands.register(commands, parents)
    licence_commands.register(licence, parents)
