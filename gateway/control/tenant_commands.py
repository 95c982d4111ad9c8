"""`sekisho tenant` and `sekisho project`."""

import argparse
from typing import Any

from gateway.control import raise_commands
from gateway.control.arguments import LIMITS, Parents, command, group, limits, limits_of, listing
from gateway.control.client import AdminClient, part
from gateway.control.terminal import say, say_json, say_rows


def register(commands: Any, parents: Parents) -> None:
    """Add the commands."""
    tenant = group(commands, "tenant", "tenants")
    listing(command(tenant, "list", _tenants, "the tenants within reach", parents))
    command(tenant, "show", _tenant, "one tenant", parents).add_argument("tenant")
    create = command(tenant, "create", _create_tenant, "a new tenant", parents)
    create.add_argument("tenant")
    create.add_argument("--legal-name", required=True)
    create.add_argument("--hojin-bangou", default="", help="13-digit corporate number")
    create.add_argument("--zone", default="Asia/Tokyo")
    create.add_argument("--site", action="append", default=[], help="a site of its own; may be given again")
    limits(create, required=True)
    raise_commands.register(tenant, parents)
    project = group(commands, "project", "projects of a tenant")
    listing(command(project, "list", _projects, "a tenant's projects", parents)).add_argument("tenant")
    add = command(project, "create", _create_project, "a new project", parents)
    add.add_argument("tenant")
    add.add_argument("project")
    add.add_argument("--name", default="")
    limits(add, required=False)


def _tenants(client: AdminClient, options: argparse.Namespace) -> int:
    columns = ("tenant_id", "legal_name", "zone", "sites", *LIMITS)
    return say_rows(list(client.pages("/tenants")), columns, as_json=options.json)


def _tenant(client: AdminClient, options: argparse.Namespace) -> int:
    say_json(client.get(f"/tenants/{part(options.tenant)}"))
    return 0


def _create_tenant(client: AdminClient, options: argparse.Namespace) -> int:
    body = {"tenant_id": options.tenant, "legal_name": options.legal_name, "hojin_bangou": options.hojin_bangou,
            "zone": options.zone, "sites": options.site, **limits_of(options)}  # fmt: skip
    say(client.post("/tenants", body)["tenant_id"])
    return 0


def _projects(client: AdminClient, options: argparse.Namespace) -> int:
    rows = list(client.pages(f"/tenants/{part(options.tenant)}/projects"))
    return say_rows(rows, ("project_id", "name", *LIMITS), as_json=options.json)


def _create_project(client: AdminClient, options: argparse.Namespace) -> int:
    body = {"project_id": options.project, "name": options.name, **limits_of(options)}
    say(client.post(f"/tenants/{part(options.tenant)}/projects", body)["project_id"])
    return 0
