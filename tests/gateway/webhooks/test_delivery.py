"""Deliveries: signed as Standard Webhooks says, tried again, given up visibly, never lost with a worker."""

import asyncio
import itertools
import json
from datetime import timedelta

import asyncpg
import pytest
from aiohttp import web
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from gateway.webhooks import send
from gateway.webhooks.deliver import AT_ONCE, Deliverer
from gateway.webhooks.events import new_event
from gateway.webhooks.schedule import ATTEMPTS_MAX, JITTER, LATEST_S, delay_s
from gateway.webhooks.send import Sender
from gateway.webhooks.signing import sealed
from gateway.webhooks.store import EACH_MAX, due, publish
from tests.gateway.webhooks.receiving import LOOPBACK, Book, Receiver


async def test_delivery_verifies_with_the_standards_own_library(book: Book, receiver: Receiver) -> None:
    tenant_id = await book.tenant()
    endpoint_id, secret = await book.endpoint(tenant_id, receiver.url)
    event = await book.happen(tenant_id)
    assert await book.deliver() == 1
    headers, body = receiver.got[0]
    told = Webhook(secret).verify(body, headers)
    assert told == {
        "type": "limit.soft_reached", "timestamp": "2026-11-24T03:02:28.000000Z",
        "data": {"tenant_id": tenant_id, "used": "関所"},
    }  # fmt: skip
    assert (headers["webhook-id"], headers["content-type"]) == (event.event_id, "application/json")
    for wrong in (body + b" ", body.replace(b"limit", b"limii")):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(wrong, headers)
    row = await book.delivery(endpoint_id)
    assert (row["status"], row["attempts"], row["last_status"], row["last_error"]) == ("delivered", 1, 200, "")
    assert await book.deliver() == 0


@pytest.mark.parametrize("overlap_s", [60, -1])
async def test_both_secrets_sign_while_one_takes_the_others_place(
    book: Book, receiver: Receiver, overlap_s: int
) -> None:
    tenant_id = await book.tenant()
    endpoint_id, old = await book.endpoint(tenant_id, receiver.url)
    book.keys.rotate(tenant_id)  # the tenant's key may rotate meanwhile as well
    other_id, new = await book.endpoint(tenant_id, receiver.url)
    await book.database.execute("UPDATE webhook_endpoint SET deleted_at = now() WHERE endpoint_id = $1", other_id)
    await book.database.execute(
        "UPDATE webhook_endpoint SET old_secret = secret, secret = $2, old_secret_until = now() + $3"
        " WHERE endpoint_id = $1",
        endpoint_id, sealed(new, book.keys.current(tenant_id), endpoint_id), timedelta(seconds=overlap_s),
    )  # fmt: skip
    await book.happen(tenant_id)
    await book.deliver()
    headers, body = receiver.got[0]
    Webhook(new).verify(body, headers)
    if overlap_s > 0:
        Webhook(old).verify(body, headers)
        assert len(headers["webhook-signature"].split(" ")) == 2
    else:
        with pytest.raises(WebhookVerificationError):
            Webhook(old).verify(body, headers)


async def test_failure_is_tried_again_under_the_same_id_later_and_later(book: Book) -> None:
    tenant_id = await book.tenant()
    async with Receiver(lambda: web.Response(status=500, text="x" * 1000)) as receiver:
        endpoint_id, secret = await book.endpoint(tenant_id, receiver.url)
        event = await book.happen(tenant_id)
        waits = []
        for attempt in range(1, 5):
            await book.its_time_comes(endpoint_id)
            assert await book.deliver() == 1
            row = await book.delivery(endpoint_id)
            assert (row["status"], row["attempts"], row["last_status"], row["last_error"]) == (
                "pending", attempt, 500, "status",
            )  # fmt: skip
            waits.append(row["in_s"])
            assert await book.deliver() == 0  # not before its time
        assert all(earlier < later for earlier, later in itertools.pairwise(waits))
        receiver.answer = lambda: web.Response(status=204)
        await book.its_time_comes(endpoint_id)
        await book.deliver()
    assert receiver.ids == [event.event_id] * 5
    for headers, body in receiver.got:
        Webhook(secret).verify(body, headers)
    assert (await book.delivery(endpoint_id))["status"] == "delivered"
    assert (await book.endpoint_row(endpoint_id))["disabled_at"] is None


@pytest.mark.parametrize("alive", [False, True])
async def test_endpoint_is_disabled_when_days_of_attempts_failed_unless_it_takes_other_events(
    book: Book, alive: bool
) -> None:
    tenant_id = await book.tenant()
    async with Receiver(lambda: web.Response(status=503)) as receiver:
        endpoint_id, _ = await book.endpoint(tenant_id, receiver.url)
        await book.happen(tenant_id)
        await book.its_time_comes(endpoint_id, ATTEMPTS_MAX - 1)
        if alive:
            other = await book.happen(tenant_id)
            await book.database.execute(
                "UPDATE webhook_delivery SET status = 'delivered', last_at = now() WHERE event_id = $1", other.event_id
            )
        assert await book.deliver() == 1
        endpoint = await book.endpoint_row(endpoint_id)
        failed = await book.database.fetchval(
            "SELECT count(*) FROM webhook_delivery WHERE endpoint_id = $1 AND status = 'failed'", endpoint_id
        )
        assert failed == 1
        assert (endpoint["disabled_at"] is None) is alive
        if not alive:
            assert endpoint["disabled_reason"] == f"{ATTEMPTS_MAX} attempts failed: status"
            await book.happen(tenant_id)
            assert await book.deliver() == 0  # and no new one is addressed to it


async def test_receiver_that_is_gone_for_good_is_disabled_at_once(book: Book) -> None:
    tenant_id = await book.tenant()
    async with Receiver(lambda: web.Response(status=410)) as receiver:
        endpoint_id, _ = await book.endpoint(tenant_id, receiver.url)
        await book.happen(tenant_id)
        await book.deliver()
    assert (await book.delivery(endpoint_id))["status"] == "failed"
    assert (await book.endpoint_row(endpoint_id))["disabled_reason"] == "the receiver answered 410 Gone"


async def test_event_goes_to_the_endpoints_of_its_tenant_that_want_it(book: Book, receiver: Receiver) -> None:
    mine, theirs = await book.tenant(), await book.tenant()
    wanted = [await book.endpoint(mine, receiver.url), await book.endpoint(mine, receiver.url, ["limit.soft_reached"])]
    unwanted = [await book.endpoint(mine, receiver.url, ["webhook.test"]), await book.endpoint(theirs, receiver.url)]
    for ended in (
        "UPDATE webhook_endpoint SET disabled_at = now() WHERE endpoint_id = $1",
        "UPDATE webhook_endpoint SET deleted_at = now() WHERE endpoint_id = $1",
    ):
        endpoint_id, _ = await book.endpoint(mine, receiver.url)
        await book.database.execute(ended, endpoint_id)
        unwanted.append((endpoint_id, ""))
    await book.happen(mine)
    rows = await book.database.fetch("SELECT endpoint_id FROM webhook_delivery")
    assert {row["endpoint_id"] for row in rows} == {endpoint_id for endpoint_id, _ in wanted}
    assert await book.deliver() == 2


async def test_event_that_happens_many_times_at_once_is_one(book: Book, receiver: Receiver) -> None:
    tenant_id = await book.tenant()
    await book.endpoint(tenant_id, receiver.url)

    async def happen() -> bool:
        connection = await asyncpg.connect(book.dsn, server_settings={"role": "sekisho_app"})
        try:
            return await publish(connection, new_event(tenant_id, "limit.soft_reached", {}, 0, "once"))
        finally:
            await connection.close()

    assert sorted(await asyncio.gather(*(happen() for _ in range(10)))) == [False] * 9 + [True]
    assert await book.deliver() == 1
    other = await book.tenant()
    assert await publish(book.database, await book.happen(other, dedupe="once")) is False  # its own, and only once
    kept = await book.database.fetchval(
        "SELECT count(*) FROM webhook_event WHERE dedupe = 'once' AND tenant_id = $1", other
    )
    assert kept == 1


async def test_two_workers_deliver_each_event_once(book: Book, receiver: Receiver) -> None:
    tenant_id = await book.tenant()
    endpoints = [await book.endpoint(tenant_id, receiver.url) for _ in range(6)]
    events = [await book.happen(tenant_id) for _ in range(8)]
    other = Deliverer(book.dsn, book.keys, LOOPBACK)
    for _ in range(40):
        if sum(await asyncio.gather(book.deliver(), book.deliver(other))) == 0:
            break
    await other.close()
    assert sorted(receiver.ids) == sorted(event.event_id for event in events for _ in endpoints)


async def test_worker_that_dies_in_the_middle_leaves_its_delivery_to_the_next_after_the_lease(
    book: Book, receiver: Receiver
) -> None:
    tenant_id = await book.tenant()
    endpoint_id, _ = await book.endpoint(tenant_id, receiver.url)
    event = await book.happen(tenant_id)
    assert [one.event_id for one in await due(book.database, 10, [])] == [event.event_id]  # and that was its end
    assert await book.deliver() == 0
    assert 50 < (await book.delivery(endpoint_id))["in_s"] <= 60
    await book.its_time_comes(endpoint_id)
    assert await book.deliver() == 1
    assert receiver.ids == [event.event_id]


async def test_slow_receiver_takes_no_more_than_its_places(book: Book, receiver: Receiver) -> None:
    tenant_id = await book.tenant()
    async with Receiver() as slow:
        slow.hangs.clear()
        await book.endpoint(tenant_id, slow.url)
        for _ in range(AT_ONCE):
            await book.happen(tenant_id)
        begun = [await book.deliverer.begin_due() for _ in range(4)]
        assert begun == [EACH_MAX, 0, 0, 0]
        await book.endpoint(tenant_id, receiver.url)
        await book.happen(tenant_id)
        assert await book.deliverer.begin_due() == 1
        slow.hangs.set()
        await book.deliverer.drain()
    assert len(receiver.got) == 1


async def test_receiver_that_does_not_answer_is_given_up_in_time(
    book: Book, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send, "ATTEMPT_S_MAX", 0.2)
    sender = Sender(LOOPBACK)
    receiver.hangs.clear()
    assert (await sender.send(receiver.url, "{}", {})).error == "timeout"
    receiver.hangs.set()
    assert (await sender.send("http://127.0.0.1:1/x", "{}", {})).error == "connection"
    assert (await sender.send(receiver.url.replace("http://", "https://"), "{}", {})).error in ("tls", "connection")
    await sender.close()


async def test_endless_answer_is_not_read(book: Book) -> None:
    class Endless(web.StreamResponse):
        async def write_eof(self, data: bytes = b"") -> None:
            with pytest.raises((ConnectionError, asyncio.CancelledError, RuntimeError)):
                while True:
                    await self.write(b"x" * 65_536)

    sender = Sender(LOOPBACK)
    async with Receiver(Endless) as receiver:
        sent = await asyncio.wait_for(sender.send(receiver.url, "{}", {}), 5)
    await sender.close()
    assert (sent.http_status, sent.error) == (200, "")


async def test_destroyed_tenant_key_ends_the_endpoint_visibly(book: Book, receiver: Receiver) -> None:
    tenant_id = await book.tenant()
    endpoint_id, _ = await book.endpoint(tenant_id, receiver.url)
    await book.happen(tenant_id)
    book.keys.destroy(tenant_id)
    await book.deliver()
    assert receiver.got == []
    assert (await book.delivery(endpoint_id))["last_error"] == "secret_destroyed"
    assert "destroyed" in (await book.endpoint_row(endpoint_id))["disabled_reason"]


async def test_loop_delivers_by_itself_until_it_is_stopped(book: Book, receiver: Receiver) -> None:
    tenant_id = await book.tenant()
    await book.endpoint(tenant_id, receiver.url)
    stop = asyncio.Event()
    loop = asyncio.create_task(book.deliverer.run(stop))
    await book.happen(tenant_id)
    await asyncio.wait_for(receiver.asked.wait(), 10)
    stop.set()
    await asyncio.wait_for(loop, 5)
    assert json.loads(receiver.got[0][1])["data"]["tenant_id"] == tenant_id


def test_delays_grow_to_eight_hours_and_take_three_days_in_all() -> None:
    plain = [delay_s(attempts, 0.5) for attempts in range(1, ATTEMPTS_MAX)]
    delays = [delay for delay in plain if delay is not None]
    assert len(delays) == ATTEMPTS_MAX - 1 and delays == sorted(delays) and delays[-1] == LATEST_S
    assert 2.9 < sum(delays) / 86_400 < 3.1
    assert delay_s(ATTEMPTS_MAX, 0.5) is None
    for attempts, middle in enumerate(delays, 1):
        low, high = delay_s(attempts, 0.0), delay_s(attempts, 0.999)
        assert low == pytest.approx(middle * (1 - JITTER)) and high is not None and high < middle * (1 + JITTER)
