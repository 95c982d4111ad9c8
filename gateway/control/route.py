"""Routes of the admin plane: one that declares no permission, or two, cannot be made."""

from typing import Any

from fastapi import APIRouter
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from gateway.control.access import Granted
from gateway.control.answers import ErrorAnswer
from gateway.control.roles import Permission

ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorAnswer, "description": "Refused; `code` and `param` say why and where."},
    "5XX": {"model": ErrorAnswer, "description": "Not served now."},
}


class AdminRoute(APIRoute):
    """A route whose handler takes exactly one of the types of `gateway.control.access`."""

    def __init__(self, path: str, endpoint: Any, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        permissions = list(_permissions(self.dependant))
        if len(permissions) != 1:
            raise TypeError(f"{path} declares {len(permissions)} permissions and needs exactly one")
        self.permission: Permission = permissions[0]
        self.openapi_extra = {**(self.openapi_extra or {}), "x-permission": self.permission.value}


def _permissions(dependant: Dependant) -> list[Permission]:
    found = [dependant.call.permission] if isinstance(dependant.call, Granted) else []
    for inner in dependant.dependencies:
        found += _permissions(inner)
    return found


def router(tag: str) -> APIRouter:
    """A router of the admin plane."""
    return APIRouter(route_class=AdminRoute, responses=ERRORS, tags=[tag])
