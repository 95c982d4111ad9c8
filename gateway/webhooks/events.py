"""What can happen that a tenant may want to be told, in the form of Standard Webhooks (standardwebhooks.com)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import msgspec
import uuid_utils

from gateway.licensing.times import from_us

EventType = Literal["limit.soft_reached", "webhook.test"]
EVENT_TYPES: tuple[str, ...] = get_args(EventType)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a tenant, once: of events with one `dedupe`, only the first is one. `body` is what is
    signed and sent; `event_id` is the `webhook-id`, by which a receiver knows a repeat."""

    event_id: str
    tenant_id: str
    type: EventType
    dedupe: str
    body: str


def new_event(
    tenant_id: str, type_: EventType, data: Mapping[str, object], at_us: int, dedupe: str | None = None
) -> Event:
    """An event of `at_us` (microseconds since the epoch); without `dedupe` it is like no other."""
    event_id = f"evt_{uuid_utils.uuid7()}"
    body = {"type": type_, "timestamp": from_us(at_us), "data": {"tenant_id": tenant_id, **data}}
    return Event(event_id, tenant_id, type_, dedupe or event_id, msgspec.json.encode(body).decode())
