"""The documents of the admin plane say what the code does."""

from pathlib import Path

from gateway.control.app import admin_routes
from gateway.control.code_files import load
from gateway.control.roles import GRANTED, Permission, Role

DOCS = Path(__file__).parents[3] / "docs"


def test_table_of_roles_is_the_table_in_code() -> None:
    lines = (DOCS / "admin.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| `") and line.count("|") == len(Role) + 2]
    assert rows == [
        f"| `{permission}` | " + " | ".join("✓" if permission in GRANTED[role] else "" for role in Role) + " |"
        for permission in Permission
    ]


def test_every_route_is_listed_with_its_permission() -> None:
    lines = (DOCS / "admin.md").read_text(encoding="utf-8").splitlines()
    listed = [line.split("|")[1:3] for line in lines if line.startswith(("| `GET", "| `POST", "| `PATCH", "| `DELETE"))]
    assert sorted((route.strip(), permission.strip()) for route, permission in listed) == sorted(
        (f"`{method} {route.path}`", f"`{route.permission}`")
        for route in admin_routes()
        for method in route.methods or ()
    )


def test_example_files_are_good() -> None:
    files = load(DOCS / "examples" / "tenants", "en")
    assert files.problems == []
    assert [tenant["tenant_id"] for tenant in files.tree["tenants"]] == ["acme"]
