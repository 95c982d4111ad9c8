"""A stream whose mark cannot be written was not delivered: its client gets an error, its tenant no charge."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from billing.link import StoreUnavailable
from gateway.edge.deliver import Delivery
from gateway.edge.dispatch import Begun
from gateway.edge.exchange import Exchange
from gateway.edge.inbound import Inbound
from gateway.edge.parse import Call
from gateway.faults import Fault
from gateway.limits.reservation import Hold, Reservation
from gateway.upstreams.client import Timeouts

CHUNK = (
    b'{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":'
    b'{"content":"a"},"finish_reason":null}],"usage":{"prompt_tokens":5,"completion_tokens":1,"total_tokens":6}}'
)

SCOPE = {"type": "http", "scheme": "http", "method": "POST", "path": "/", "headers": []}


class Client:
    """Takes what is sent; never leaves by itself."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.inbound = Inbound(SCOPE, self._receive, self._send)

    async def _receive(self) -> Any:
        await asyncio.Event().wait()

    async def _send(self, message: Any) -> None:
        self.sent.append(message)


async def confirmed(hold: Hold) -> Hold:
    return hold


def at_the_first_byte(mark: "asyncio.Future[bool]") -> tuple[Delivery, Exchange, Begun]:
    """A delivery whose mark ends as `mark` does, and a stream whose first chunk has come."""
    opened: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    opened.set_result(True)
    exchange = Exchange("chat", "gateway-1", model="m", opened=opened, attempt=1)
    exchange.call = Call(True, False, 1, 10, 10, 10, {})
    journal = SimpleNamespace(marks=SimpleNamespace(put=lambda _: mark))
    progress = SimpleNamespace(begun=lambda _: None)
    exchange.hold = Hold(Reservation("r", "t", (), "202611", 20, 20, "gateway-1", "Asia/Tokyo", None), 1, None, None)
    holds = SimpleNamespace(confirm=confirmed)
    delivery = Delivery(cast("Any", journal), cast("Any", progress), cast("Any", None), Timeouts(), cast("Any", holds))
    answer = SimpleNamespace(abort=lambda: None)
    return delivery, exchange, Begun(cast("Any", answer), [CHUNK], b"")


async def test_stream_whose_mark_fails_is_refused_and_charged_to_nobody() -> None:
    mark: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    mark.set_exception(StoreUnavailable("away"))
    client = Client()
    delivery, exchange, begun = at_the_first_byte(mark)
    with pytest.raises(Fault) as refused:
        await delivery.deliver(exchange, begun, client.inbound)
    assert refused.value.code.name == "store_unavailable"
    assert client.sent == []
    exchange.count(exchange.meter.usage() if exchange.meter else exchange.usage, "engine")
    assert not exchange.charged


async def test_stream_whose_client_leaves_during_the_mark_is_charged_to_nobody() -> None:
    mark: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    client = Client()
    delivery, exchange, begun = at_the_first_byte(mark)
    delivering = asyncio.create_task(delivery.deliver(exchange, begun, client.inbound))
    await asyncio.sleep(0)
    delivering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await delivering
    assert client.sent == []
    assert exchange.first_byte_at is None
