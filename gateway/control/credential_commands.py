"""`sekisho key`, `sekisho client` and `sekisho admin-key`."""

import argparse
from pathlib import Path
from typing import Any

from gateway.control.arguments import Parents, command, group, limits, limits_of, listing
from gateway.control.client import AdminClient, part
from gateway.control.roles import Role
from gateway.control.terminal import file_json, say, say_rows


def register(commands: Any, parents: Parents) -> None:
    """Add the commands."""
    _register_keys(commands, parents)
    _register_clients(commands, parents)
    _register_admin_keys(commands, parents)


def _register_keys(commands: Any, parents: Parents) -> None:
    key = group(commands, "key", "API keys")
    issue = command(key, "issue", _issue_key, "make a key; its text is shown once", parents)
    issue.add_argument("tenant")
    issue.add_argument("--env", default="live", help="environment in the key's text")
    _access(issue)
    limits(issue, required=False)
    rotate = command(key, "rotate", _rotate_key, "a successor; its text is shown once", parents)
    rotate.add_argument("key_id")
    rotate.add_argument("--env", default="live")
    rotate.add_argument("--overlap-s", type=int, default=0, help="seconds that the old key stays valid")
    command(key, "revoke", _revoke_key, "end a key for good, within a second", parents).add_argument("key_id")
    listing(command(key, "list", _keys, "a tenant's keys", parents)).add_argument("tenant")


def _register_clients(commands: Any, parents: Parents) -> None:
    client = group(commands, "client", "OAuth clients (private_key_jwt)")
    add = command(client, "add", _add_client, "a new client", parents)
    add.add_argument("tenant")
    add.add_argument("--jwks", type=Path, required=True, help="file with the client's public keys (RFC 7517)")
    add.add_argument("--binding", default="none", choices=("none", "dpop", "mtls"))
    _access(add)
    limits(add, required=False)
    command(client, "revoke", _revoke_client, "end a client for good", parents).add_argument("client_id")
    listing(command(client, "list", _clients, "a tenant's clients", parents)).add_argument("tenant")


def _register_admin_keys(commands: Any, parents: Parents) -> None:
    admin = group(commands, "admin-key", "keys of the admin plane")
    grant = command(admin, "issue", _issue_admin_key, "make an admin key; its text is shown once", parents)
    grant.add_argument("--role", required=True, choices=[role.value for role in Role])
    grant.add_argument("--tenant", action="append", default=[], help="for si_engineer; may be given again")
    grant.add_argument("--label", default="")
    listing(command(admin, "list", _admin_keys, "all admin keys", parents))
    command(admin, "revoke", _revoke_admin_key, "end an admin key for good", parents).add_argument("key_id")


def _access(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--label", default="")
    parser.add_argument("--project")
    for name in ("scope", "model", "purpose", "cidr"):
        parser.add_argument(f"--allow-{name}", action="append", help="restrict to it; may be given again")
    parser.add_argument("--purpose", default="general", help="of requests that state none")
    parser.add_argument("--data-class", default="restricted", help="of requests that state none")
    parser.add_argument("--expires-at", help="RFC 3339 time")


def _access_of(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "label": options.label, "project_id": options.project, "scopes": options.allow_scope,
        "models": options.allow_model, "purposes": options.allow_purpose, "cidrs": options.allow_cidr,
        "purpose": options.purpose, "data_class": options.data_class, "expires_at": options.expires_at,
        **limits_of(options),
    }  # fmt: skip


def _issue_key(client: AdminClient, options: argparse.Namespace) -> int:
    body = {**_access_of(options), "environment": options.env}
    say(client.post(f"/tenants/{part(options.tenant)}/keys", body)["key"])
    return 0


def _rotate_key(client: AdminClient, options: argparse.Namespace) -> int:
    body = {"overlap_s": options.overlap_s, "environment": options.env}
    say(client.post(f"/keys/{part(options.key_id)}/rotate", body)["key"])
    return 0


def _revoke_key(client: AdminClient, options: argparse.Namespace) -> int:
    say(f"{client.post(f'/keys/{part(options.key_id)}/revoke')['key_id']} revoked")
    return 0


def _keys(client: AdminClient, options: argparse.Namespace) -> int:
    rows = list(client.pages(f"/tenants/{part(options.tenant)}/keys"))
    columns = ("key_id", "label", "project_id", "purpose", "data_class", "last_used_at", "expires_at", "revoked_at")
    return say_rows(rows, columns, as_json=options.json)


def _add_client(client: AdminClient, options: argparse.Namespace) -> int:
    body = {**_access_of(options), "jwks": file_json(options.jwks), "binding": options.binding}
    say(client.post(f"/tenants/{part(options.tenant)}/clients", body)["client_id"])
    return 0


def _revoke_client(client: AdminClient, options: argparse.Namespace) -> int:
    say(f"{client.post(f'/clients/{part(options.client_id)}/revoke')['client_id']} revoked")
    return 0


def _clients(client: AdminClient, options: argparse.Namespace) -> int:
    rows = list(client.pages(f"/tenants/{part(options.tenant)}/clients"))
    columns = ("client_id", "label", "binding", "project_id", "last_used_at", "expires_at", "revoked_at")
    return say_rows(rows, columns, as_json=options.json)


def _issue_admin_key(client: AdminClient, options: argparse.Namespace) -> int:
    body = {"role": options.role, "tenants": options.tenant, "label": options.label}
    say(client.post("/admin-keys", body)["key"])
    return 0


def _admin_keys(client: AdminClient, options: argparse.Namespace) -> int:
    columns = ("key_id", "role", "tenants", "label", "created_at", "expires_at", "revoked_at")
    return say_rows(list(client.pages("/admin-keys")), columns, as_json=options.json)


def _revoke_admin_key(client: AdminClient, options: argparse.Namespace) -> int:
    say(f"{client.post(f'/admin-keys/{part(options.key_id)}/revoke')['key_id']} revoked")
    return 0
