"""Webhooks on the admin plane: a secret is shown once, events go where they are wanted, everything is recorded."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from gateway.control.webhooks import ENDPOINTS_MAX
from gateway.tenancy.keystore import KeyFiles
from gateway.webhooks.deliver import Deliverer
from tests.gateway.control.admin import Administration, tenant_body
from tests.gateway.webhooks.receiving import LOOPBACK, Receiver

URL = {"url": "https://hooks.example/x"}


@pytest_asyncio.fixture
async def receiver(database: Any) -> AsyncIterator[Receiver]:
    """A receiver, and nothing due for others."""
    await database.execute("DELETE FROM webhook_delivery")
    async with Receiver() as made:
        yield made


async def delivered(admin: Administration, database: Any, endpoint_id: str, receiver: Receiver) -> None:
    """Deliver what is due for the endpoint to `receiver` (the plane takes https only)."""
    await database.execute("UPDATE webhook_endpoint SET url = $2 WHERE endpoint_id = $1", endpoint_id, receiver.url)
    deliverer = Deliverer(admin.dsn, KeyFiles(admin.data_dir), LOOPBACK)
    await deliverer.begin_due()
    await deliverer.close()


async def test_test_event_is_signed_with_the_secret_that_was_shown(
    admin: Administration, tenant: str, database: Any, receiver: Receiver
) -> None:
    made = await admin.root.good("POST", f"/tenants/{tenant}/webhooks", URL)
    endpoint = made["endpoint_id"]
    event = await admin.root.good("POST", f"/webhooks/{endpoint}/test")
    await delivered(admin, database, endpoint, receiver)
    told = Webhook(made["secret"]).verify(receiver.got[0][1], receiver.got[0][0])
    assert (told["type"], told["data"]) == ("webhook.test", {"tenant_id": tenant, "endpoint_id": endpoint})
    listed = (await admin.root.good("GET", f"/webhooks/{endpoint}/deliveries"))["data"]
    assert [(row["event_id"], row["type"], row["status"], row["last_status"], row["next_at"]) for row in listed] == [
        (event["event_id"], "webhook.test", "delivered", 200, None)
    ]
    await admin.root.good("POST", f"/webhooks/{endpoint}/redeliver", {"event_id": event["event_id"]})
    await delivered(admin, database, endpoint, receiver)
    assert receiver.ids == [event["event_id"]] * 2


async def test_secret_is_in_no_other_answer_no_record_and_not_in_the_book(
    admin: Administration, tenant: str, database: Any
) -> None:
    made = await admin.root.good("POST", f"/tenants/{tenant}/webhooks", URL)
    endpoint = made["endpoint_id"]
    rotated = await admin.root.good("POST", f"/webhooks/{endpoint}/rotate", {"overlap_s": 60})
    records = await database.fetch("SELECT record FROM audit_pending WHERE tenant_id = $1", tenant)
    rows = await database.fetch("SELECT * FROM webhook_endpoint WHERE tenant_id = $1", tenant)
    assert len(records) == 3 and len(rows) == 1  # tenant, webhook, rotation
    seen = [
        await admin.root.good("GET", f"/webhooks/{endpoint}"),
        await admin.root.good("GET", f"/tenants/{tenant}/webhooks"),
        await admin.root.good("PATCH", f"/webhooks/{endpoint}", {"label": "x"}),
        [row["record"] for row in records], [str(dict(row)) for row in rows],
    ]  # fmt: skip
    for secret in (made["secret"], rotated["secret"]):
        assert secret.startswith("whsec_") and secret.removeprefix("whsec_") not in json.dumps(seen)


async def test_rotated_secret_signs_beside_its_successor_until_the_overlap_ends(
    admin: Administration, tenant: str, database: Any, receiver: Receiver
) -> None:
    made = await admin.root.good("POST", f"/tenants/{tenant}/webhooks", URL)
    endpoint = made["endpoint_id"]
    for overlap_s in (60, 0):
        new = await admin.root.good("POST", f"/webhooks/{endpoint}/rotate", {"overlap_s": overlap_s})
        await admin.root.good("POST", f"/webhooks/{endpoint}/test")
        await delivered(admin, database, endpoint, receiver)
        headers, body = receiver.got[-1]
        Webhook(new["secret"]).verify(body, headers)
        if overlap_s:
            Webhook(made["secret"]).verify(body, headers)
        else:
            with pytest.raises(WebhookVerificationError):
                Webhook(made["secret"]).verify(body, headers)


async def test_disabled_webhook_waits_and_deleted_one_is_over(
    admin: Administration, tenant: str, database: Any, receiver: Receiver
) -> None:
    endpoint = (await admin.root.good("POST", f"/tenants/{tenant}/webhooks", URL))["endpoint_id"]
    await admin.root.good("POST", f"/webhooks/{endpoint}/test")
    off = await admin.root.good("PATCH", f"/webhooks/{endpoint}", {"disabled": True})
    assert off["disabled_at"] and off["disabled_reason"] == "by an administrator"
    assert (await admin.root.good("PATCH", f"/webhooks/{endpoint}", {"disabled": True})) == off
    await delivered(admin, database, endpoint, receiver)
    assert receiver.got == []
    on = await admin.root.good("PATCH", f"/webhooks/{endpoint}", {"disabled": False})
    assert (on["disabled_at"], on["disabled_reason"]) == (None, "")
    await delivered(admin, database, endpoint, receiver)
    assert len(receiver.got) == 1
    assert (await admin.root.good("DELETE", f"/webhooks/{endpoint}"))["deleted_at"]
    for method, path in (("PATCH", ""), ("POST", "/test"), ("POST", "/rotate")):
        status, error = await admin.root.error(method, f"/webhooks/{endpoint}{path}", {})
        assert (status, error["code"]) == (409, "wrong_state")


@pytest.mark.parametrize(
    ("body", "param"),
    [({"url": "http://hooks.example"}, "url"), ({"url": "https://u:p@hooks.example"}, "url"),
     ({"url": "https://hooks.example?x"}, "url"), ({"url": "https://"}, "url"), ({**URL, "events": []}, "events"),
     ({**URL, "events": ["no.such"]}, "events[0]"), ({**URL, "events": ["webhook.test"] * 2}, "events"),
     ({**URL, "secret": "whsec_x"}, "secret"), ({}, "url")],
)  # fmt: skip
async def test_webhook_that_does_not_fit_is_named(
    admin: Administration, tenant: str, body: dict[str, Any], param: str
) -> None:
    status, error = await admin.root.error("POST", f"/tenants/{tenant}/webhooks", body)
    assert (status, error["param"]) == (400, param)


async def test_number_of_a_tenants_webhooks_is_bounded_and_deleted_ones_do_not_count(
    admin: Administration, tenant: str
) -> None:
    for _ in range(ENDPOINTS_MAX):
        endpoint = (await admin.root.good("POST", f"/tenants/{tenant}/webhooks", URL))["endpoint_id"]
    assert (await admin.root.error("POST", f"/tenants/{tenant}/webhooks", URL))[0] == 409
    await admin.root.good("DELETE", f"/webhooks/{endpoint}")
    await admin.root.good("POST", f"/tenants/{tenant}/webhooks", URL)


async def test_event_of_another_tenant_is_not_delivered_by_its_id(admin: Administration, tenant: str) -> None:
    other = (await admin.root.good("POST", "/tenants", tenant_body()))["tenant_id"]
    mine, theirs = [
        (await admin.root.good("POST", f"/tenants/{one}/webhooks", URL))["endpoint_id"] for one in (tenant, other)
    ]
    event = (await admin.root.good("POST", f"/webhooks/{theirs}/test"))["event_id"]
    for event_id in (event, "evt_00000000-0000-7000-8000-000000000000"):
        status, error = await admin.root.error("POST", f"/webhooks/{mine}/redeliver", {"event_id": event_id})
        assert (status, error["code"]) == (404, "object_not_found")
