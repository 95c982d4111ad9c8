"""Webhooks: `/tenants/{tenant_id}/webhooks` and `/webhooks/{endpoint_id}` (docs/webhooks.md)."""

from datetime import timedelta
from typing import Annotated, Any

from fastapi import Query

from gateway.control.access import WebhookReader, WebhookWriter
from gateway.control.answers import IssuedWebhook, Listed, Webhook, WebhookDelivery, WebhookEvent
from gateway.control.audit import Action
from gateway.control.credentials import new_id
from gateway.control.paging import Paging
from gateway.control.refusals import not_found
from gateway.control.route import router
from gateway.control.store import Row
from gateway.control.tables import WEBHOOK, WEBHOOK_DELIVERY, WEBHOOK_EVENT, Page
from gateway.control.webhook_forms import DeliveryPage, NewWebhook, Redelivery, SecretRotation, WebhookChange
from gateway.control.work import Work
from gateway.faults import Fault
from gateway.licensing.times import to_us
from gateway.webhooks import signing, store
from gateway.webhooks.events import new_event

ENDPOINTS_MAX = 20

routes = router("webhooks")


@routes.get("/tenants/{tenant_id}/webhooks", response_model=Listed[Webhook])
async def list_webhooks(work: WebhookReader, tenant_id: str, paging: Annotated[Paging, Query()]) -> dict[str, Any]:
    """A tenant's webhooks, disabled and deleted ones too."""
    return paging.answer(WEBHOOK, await work.page(WEBHOOK, paging.page(WEBHOOK, tenant_id=tenant_id)))


@routes.post("/tenants/{tenant_id}/webhooks", status_code=201, response_model=IssuedWebhook)
async def create_webhook(work: WebhookWriter, tenant_id: str, body: NewWebhook) -> Row:
    """A new webhook, with its secret."""
    there = await work.page(WEBHOOK, Page({"tenant_id": tenant_id}, limit=1_000))
    if sum(row["deleted_at"] is None for row in there) >= ENDPOINTS_MAX:
        raise Fault("wrong_state", kind="tenant", name=tenant_id, detail=f"it has {ENDPOINTS_MAX} webhooks already")
    endpoint_id, secret = new_id("we"), signing.new_secret()
    values = {"endpoint_id": endpoint_id, "tenant_id": tenant_id, **body.model_dump()}
    row = await work.create(WEBHOOK, {**values, "secret": _sealed(work, tenant_id, endpoint_id, secret)})
    return {**row, "secret": secret}


@routes.get("/webhooks/{endpoint_id}", response_model=Webhook)
async def show_webhook(work: WebhookReader, endpoint_id: str) -> Row:
    """One webhook."""
    return await work.get(WEBHOOK, endpoint_id)


@routes.patch("/webhooks/{endpoint_id}", response_model=Webhook)
async def update_webhook(work: WebhookWriter, endpoint_id: str, body: WebhookChange) -> Row:
    """Change what the body names. What waits for a disabled webhook is delivered once it is enabled again."""
    row, changes = await _standing(work, endpoint_id), body.given()
    if "disabled" in changes:
        disabled = changes.pop("disabled")
        if disabled != (row["disabled_at"] is not None):
            changes["disabled_at"] = work.now if disabled else None
            changes["disabled_reason"] = "by an administrator" if disabled else ""
    return await work.update(WEBHOOK, row, changes)


@routes.delete("/webhooks/{endpoint_id}", response_model=Webhook)
async def delete_webhook(work: WebhookWriter, endpoint_id: str) -> Row:
    """End a webhook for good. Twice is as good as once."""
    row = await work.get(WEBHOOK, endpoint_id)
    return row if row["deleted_at"] is not None else await work.update(
        WEBHOOK, row, {"deleted_at": work.now, "old_secret": None, "old_secret_until": None}, Action.REVOKE
    )  # fmt: skip


@routes.post("/webhooks/{endpoint_id}/rotate", status_code=201, response_model=IssuedWebhook)
async def rotate_secret(work: WebhookWriter, endpoint_id: str, body: SecretRotation) -> Row:
    """A new secret, shown here only. For `overlap_s` seconds what is sent is signed with the old one as well."""
    row, secret = await _standing(work, endpoint_id), signing.new_secret()
    old = await store.secret_of(work.connection, endpoint_id)
    changes = {
        "secret": _sealed(work, row["tenant_id"], endpoint_id, secret), "secret_from": work.now, "old_secret": old,
        "old_secret_until": work.now + timedelta(seconds=body.overlap_s),
    }  # fmt: skip
    return {**await work.update(WEBHOOK, row, changes, Action.ROTATE), "secret": secret}


@routes.post("/webhooks/{endpoint_id}/test", status_code=201, response_model=WebhookEvent)
async def test_webhook(work: WebhookWriter, endpoint_id: str) -> Row:
    """Send an event of type `webhook.test` to this webhook alone, whatever events it wants."""
    row = await _standing(work, endpoint_id)
    event = new_event(row["tenant_id"], "webhook.test", {"endpoint_id": endpoint_id}, to_us(work.now))
    made = await work.create(
        WEBHOOK_EVENT,
        {"event_id": event.event_id, "tenant_id": event.tenant_id, "type": event.type, "dedupe": event.dedupe,
         "body": event.body},
    )  # fmt: skip
    await store.address(work.connection, endpoint_id, event.event_id)
    return made


@routes.post("/webhooks/{endpoint_id}/redeliver", status_code=201, response_model=WebhookEvent)
async def redeliver(work: WebhookWriter, endpoint_id: str, body: Redelivery) -> Row:
    """Deliver an event of the last 90 days once more, under the same `webhook-id`, with all attempts before it."""
    endpoint = await _standing(work, endpoint_id)
    event = await work.get(WEBHOOK_EVENT, body.event_id)
    if event["tenant_id"] != endpoint["tenant_id"]:
        raise not_found(WEBHOOK_EVENT.kind, body.event_id)
    at = {"next_at": work.now, "status": "pending", "attempts": 0, "last_status": None, "last_error": ""}
    delivery = await _delivery(work, endpoint_id, body.event_id)
    if delivery is None:
        await work.create(
            WEBHOOK_DELIVERY,
            {"endpoint_id": endpoint_id, "event_id": body.event_id, "tenant_id": endpoint["tenant_id"], **at},
        )
    else:
        await work.update(WEBHOOK_DELIVERY, delivery, at)
    return event


@routes.get("/webhooks/{endpoint_id}/deliveries", response_model=Listed[WebhookDelivery])
async def list_deliveries(
    work: WebhookReader, endpoint_id: str, query: Annotated[DeliveryPage, Query()]
) -> dict[str, Any]:
    """What was, or is to be, delivered to a webhook, newest first."""
    await work.get(WEBHOOK, endpoint_id)
    rows = await store.deliveries(work.connection, endpoint_id, query.before or "", query.limit)
    return {"data": rows, "next": rows[-1]["event_id"] if len(rows) == query.limit else None}


async def _delivery(work: Work, endpoint_id: str, event_id: str) -> Row | None:
    found = await work.page(WEBHOOK_DELIVERY, Page({"endpoint_id": endpoint_id, "event_id": event_id}, limit=1))
    return found[0] if found else None


async def _standing(work: Work, endpoint_id: str) -> Row:
    """The webhook. Raises `Fault` for one that was deleted."""
    row = await work.get(WEBHOOK, endpoint_id)
    if row["deleted_at"] is not None:
        raise Fault("wrong_state", kind=WEBHOOK.kind, name=endpoint_id, detail="deleted")
    return row


def _sealed(work: Work, tenant_id: str, endpoint_id: str, secret: str) -> bytes:
    return signing.sealed(secret, work.tenant_keys.current(tenant_id), endpoint_id)
