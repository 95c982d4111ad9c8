"""What a principal may do at all: scopes of its credential and its token, and the credential's list of models."""

from gateway.faults import Fault
from gateway.identity.access import Principal


def check_scope(principal: Principal, scope: str) -> None:
    """Raises `Fault("insufficient_scope")` (RFC 6750 §3.1) unless credential and token both carry `scope`."""
    for scopes in (principal.access.scopes, principal.scopes):
        if scopes is not None and scope not in scopes:
            challenge = f'Bearer realm="sekisho", error="insufficient_scope", scope="{scope}"'
            raise Fault("insufficient_scope", scope=scope, headers={"www-authenticate": challenge})


def model_allowed(principal: Principal, model: str) -> bool:
    """Whether the credential's list of models, where it has one, names `model`."""
    models = principal.access.models
    return models is None or model in models
