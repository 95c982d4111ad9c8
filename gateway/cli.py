"""`sekisho`: one command for operators. Exit codes: 0 good, 1 checked and bad, 2 usage error or could not check."""

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from gateway import settings as settings_module
from gateway.control import commands as control_commands
from gateway.identity.settings import Tls
from gateway.licensing import commands as licence_commands
from gateway.settings import SettingsError
from gateway.tenancy import keystore_commands
from gateway.up import command as up_command


def main(arguments: list[str] | None = None) -> int:
    """Run the command line `arguments` (of the process by default); returns the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=options.log_level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        code: int = options.run(options)
    except (SettingsError, OSError) as error:
        print(f"sekisho: {error}", file=sys.stderr)
        return 2
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sekisho", description="Sekisho, the managed inference gateway.")
    _add_common(parser, data_dir=None, log_level="INFO")
    common = argparse.ArgumentParser(add_help=False)  # the same options after the command
    _add_common(common, data_dir=argparse.SUPPRESS, log_level=argparse.SUPPRESS)
    parents = [common]
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    gateway = commands.add_parser("gateway", help="serve the data plane, the admin plane, or both", parents=parents)
    gateway.add_argument("--roles", type=_roles, default=frozenset({"data"}), help="comma-separated: data, admin")
    gateway.add_argument("--host", default="127.0.0.1")
    gateway.add_argument("--port", type=int, default=8080, help="data plane")
    gateway.add_argument("--ops-port", type=int, default=8081, help="health")
    gateway.add_argument("--admin-port", type=int, default=8082, help="admin plane")
    gateway.add_argument("--tls-cert", type=Path, help="PEM certificate chain: the data and the admin plane speak TLS")
    gateway.add_argument("--tls-key", type=Path, help="PEM private key of --tls-cert")
    gateway.add_argument("--client-ca", type=Path, help="PEM authorities whose client certificates are taken")
    gateway.set_defaults(run=_gateway)
    worker = commands.add_parser("worker", help="recover, sweep, keep partitions", parents=parents)
    worker.set_defaults(run=_worker)
    migrate = commands.add_parser("migrate", help="bring the database to the newest revision", parents=parents)
    migrate.add_argument("--revision", default="head")
    migrate.set_defaults(run=_migrate)
    check = commands.add_parser("reconcile", help="compare journal, ledger and the engines' records", parents=parents)
    check.add_argument("--from", dest="start", metavar="DATE", help="first day (Asia/Tokyo), of the last 31 by default")
    check.add_argument("--to", dest="end", metavar="DATE", help="the day after the last, tomorrow by default")
    check.set_defaults(run=_reconcile)
    rotate = commands.add_parser("rotate-token-keys", help="sign access tokens with a new key", parents=parents)
    rotate.set_defaults(run=_rotate_token_keys)
    tenant_key = commands.add_parser("tenant-key", help="the key that a tenant's stored data is encrypted with")
    keystore_commands.register(tenant_key.add_subparsers(required=True, metavar="ACTION"), parents)
    licence = licence_commands.register(commands, parents)
    control_commands.register(commands, licence, parents)
    up_command.register(commands)
    return parser


def _add_common(parser: argparse.ArgumentParser, *, data_dir: str | None, log_level: str) -> None:
    parser.add_argument("--data-dir", default=data_dir, help="data folder (SEKISHO_DATA_DIR, else ./.sekisho)")
    parser.add_argument("--log-level", default=log_level, choices=("DEBUG", "INFO", "WARNING", "ERROR"))


def _roles(text: str) -> frozenset[str]:
    roles = frozenset(part.strip() for part in text.split(","))
    if not roles or not roles <= {"data", "admin"}:
        raise argparse.ArgumentTypeError(f"{text!r} are no roles (data, admin, or data,admin)")
    return roles


def _settings(options: argparse.Namespace) -> settings_module.Settings:
    return settings_module.load(settings_module.data_dir_of(options.data_dir))


def _gateway(options: argparse.Namespace) -> int:
    from gateway.serve import Listen, serve

    tls = _tls(options)
    listen = Listen(options.roles, options.host, options.port, options.ops_port, options.admin_port, tls)
    return serve(_settings(options), listen)


def _tls(options: argparse.Namespace) -> Tls | None:
    if options.tls_cert is None and options.tls_key is None and options.client_ca is None:
        return None
    if options.tls_cert is None or options.tls_key is None:
        raise SettingsError("--tls-cert and --tls-key go together, and --client-ca needs both")
    return Tls(options.tls_cert, options.tls_key, options.client_ca)


def _worker(options: argparse.Namespace) -> int:
    from gateway.worker import work

    return work(_settings(options))


def _migrate(options: argparse.Namespace) -> int:
    from gateway.migrations.run import migrate

    asyncio.run(migrate(_settings(options).database_url, options.revision))
    return 0


def _reconcile(options: argparse.Namespace) -> int:
    from gateway.books_command import reconcile_command

    return asyncio.run(reconcile_command(_settings(options).database_url, options.start, options.end))


def _rotate_token_keys(options: argparse.Namespace) -> int:
    from gateway.identity.token_keys import rotate

    print(rotate(settings_module.data_dir_of(options.data_dir)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
