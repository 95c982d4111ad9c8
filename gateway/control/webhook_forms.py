"""The bodies of webhooks."""

from typing import Annotated

from pydantic import AfterValidator, Field, StrictBool, StringConstraints

from gateway.control import fields as f
from gateway.control.forms import STAYS, Form
from gateway.webhooks.events import EVENT_TYPES


def _type(name: str) -> str:
    if name not in EVENT_TYPES:
        raise ValueError(f"one of {', '.join(EVENT_TYPES)}")
    return name


def _unique(names: list[str]) -> list[str]:
    if not names or len(set(names)) != len(names):
        raise ValueError("at least one type of event, each once; null for all of them")
    return sorted(names)


Events = Annotated[list[Annotated[str, AfterValidator(_type)]], Field(max_length=64), AfterValidator(_unique)]
EventId = Annotated[str, StringConstraints(pattern=r"^evt_[0-9a-f-]{36}$")]


class NewWebhook(Form):
    """Where a tenant is told what happens. `events` null: everything, also what there will be one day."""

    url: f.HttpsUrl
    events: Events | None = None
    label: f.Label = ""


class WebhookChange(Form):
    """A change of a webhook. `disabled` false also lifts what repeated failure has disabled."""

    url: f.HttpsUrl = STAYS
    events: Events | None = STAYS
    label: f.Label = STAYS
    disabled: StrictBool = STAYS


class SecretRotation(Form):
    """How long the old secret signs beside its successor, in seconds."""

    overlap_s: int = Field(default=86_400, strict=True, ge=0, le=30 * 86_400)


class Redelivery(Form):
    """Which event to deliver once more."""

    event_id: EventId


class DeliveryPage(Form):
    """The query of a list of deliveries, newest first: those before the event `before`."""

    limit: int = Field(default=100, ge=1, le=1_000)
    before: EventId | None = None
