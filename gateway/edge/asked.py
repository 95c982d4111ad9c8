"""What a request asks for besides its body: model and version, purpose, data class; and the refusal in words."""

import re
from typing import Any

from gateway.edge.inbound import Inbound
from gateway.edge.parse import model_of
from gateway.faults import Fault
from gateway.identity.access import Access, Principal
from gateway.licensing.decide import Ask
from gateway.upstreams.choose import Choice

PURPOSE_HEADER = b"x-sekisho-purpose"
DATA_CLASS_HEADER = b"x-sekisho-data-class"
STATED_CHARS_MAX = 64
MODEL_NAME = re.compile(r"[A-Za-z0-9._:/-]{1,64}", re.ASCII)
_STRICTNESS = {"public": 0, "restricted": 1, "secret": 2}
_PARAMS = {
    "unknown_purpose": "X-Sekisho-Purpose",
    "purpose_not_licensed": "X-Sekisho-Purpose",
    "unknown_data_class": "X-Sekisho-Data-Class",
    "data_class_not_licensed": "X-Sekisho-Data-Class",
    "secret_needs_own_site": "X-Sekisho-Data-Class",
    "model_version_not_licensed": "model",
}


def asked(tree: dict[str, Any], action: str, principal: Principal, inbound: Inbound) -> tuple[str, Ask]:
    """The model's name, and the question for the licence without a place. `name@version` pins a version.

    Purpose and class are the credential's where the request states none. Raises `Fault` with `missing_parameter`,
    `invalid_type` or `invalid_value`.
    """
    model, pinned, version = model_of(tree).partition("@")
    if pinned and not version:
        raise Fault("invalid_value", param="model", detail="name@version, or the name alone")
    access = principal.access
    return model, Ask(
        tenant_id=access.tenant_id,
        model=model,
        model_version=version,
        action=action,
        purpose=_stated(inbound, PURPOSE_HEADER) or access.purpose,
        data_class=_stricter(_stated(inbound, DATA_CLASS_HEADER), access),
        country="",
        region="",
        tier="",
        adapter="",
        own_site=False,
    )


def named(model: str) -> str:
    """The model's name as the journal may hold it, '' where it can be none. A name that nobody serves is written down
    like any other: whether it exists must not show in the caller's usage."""
    return model if MODEL_NAME.fullmatch(model) else ""


def _stated(inbound: Inbound, name: bytes) -> str:
    values = inbound.header_values(name)
    if len(values) > 1:  # whichever of two were taken, another reader would take the other
        raise Fault("invalid_value", param=name.decode(), detail="state it once")
    return values[0].strip()[:STATED_CHARS_MAX] if values else ""


def _stricter(stated: str, access: Access) -> str:
    """The stricter of the request's class and the credential's. A class that nobody knows stays what it is: it is
    refused by the decision."""
    if stated and _STRICTNESS.get(stated, len(_STRICTNESS)) > _STRICTNESS[access.data_class]:
        return stated
    return access.data_class


def check_choice(choice: Choice, principal: Principal) -> None:
    """Raises `Fault` with the refusal of licence or credential, naming rule and licence."""
    decision, ask = choice.decision, choice.ask
    if not decision.allowed:
        raise Fault(
            decision.refusal, param=_PARAMS.get(decision.refusal), rule=decision.rule_id, licence=decision.licence,
            action=ask.action, purpose=ask.purpose, data_class=ask.data_class, country=ask.country, region=ask.region,
            tier=ask.tier, version=ask.model_version,
        )  # fmt: skip
    purposes = principal.access.purposes
    if purposes is not None and ask.purpose not in purposes:
        raise Fault(
            "purpose_not_allowed", param="X-Sekisho-Purpose", rule="key:purposes", licence=decision.licence,
            purpose=ask.purpose,
        )  # fmt: skip
