"""What a client reads of its limits: on an answer the levels that bind, on a refusal the level that refuses, once."""

from typing import Any

from gateway.edge.exchange import Exchange
from gateway.edge.headers import response_headers
from gateway.edge.inbound import Inbound
from gateway.limits.headroom import Headroom
from gateway.limits.holds import Hold, Holds
from gateway.limits.levels import Limits
from gateway.limits.reservation import Reservation
from tests.gateway.limits.asking import Chain, refused

ASKED = Reservation("r", "t", (), "202611", 5, 5, "gateway-1", "Asia/Tokyo", None)
SCOPE = {"type": "http", "scheme": "http", "method": "POST", "path": "/", "headers": []}


class Client:
    """The far end of an exchange: keeps the head of what it is sent."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.inbound = Inbound(SCOPE, self._receive, self._send)

    async def _receive(self) -> Any:
        raise AssertionError("a refusal waits for nothing")

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = [(name.decode(), value.decode()) for name, value in message["headers"]]

    def limits(self) -> dict[str, str]:
        """The `x-ratelimit-*` headers; none may come twice."""
        told = [(name, value) for name, value in self.headers if name.startswith("x-ratelimit-")]
        assert len(dict(told)) == len(told)
        return dict(told)


def test_answer_tells_the_levels_that_bind() -> None:
    requests, tokens = Headroom("key", 60, 59, 12), Headroom("project", 1_000, 7, 86_400)
    exchange = Exchange("chat", "gateway-1", hold=Hold(ASKED, 1, requests, tokens))
    headers = dict(response_headers(exchange, Client().inbound))
    assert {name: value for name, value in headers.items() if name.startswith(b"x-ratelimit-")} == {
        b"x-ratelimit-limit-requests": b"60", b"x-ratelimit-remaining-requests": b"59",
        b"x-ratelimit-reset-requests": b"12s", b"x-ratelimit-scope-requests": b"key",
        b"x-ratelimit-limit-tokens": b"1000", b"x-ratelimit-remaining-tokens": b"7",
        b"x-ratelimit-reset-tokens": b"86400s", b"x-ratelimit-scope-tokens": b"project",
    }  # fmt: skip


def test_answer_that_nothing_limits_tells_nothing() -> None:
    exchange = Exchange("chat", "gateway-1", hold=Hold(ASKED, 1, None, None))
    names = [name for name, _ in response_headers(exchange, Client().inbound)]
    assert not any(name.startswith(b"x-ratelimit-") for name in names)


async def test_refusal_tells_the_level_that_refuses_and_when_to_come_back(holds: Holds) -> None:
    chain = Chain.of(tenant=Limits(tokens_month=1_000), project=Limits(rpm=0))
    fault, client = await refused(holds, chain), Client()
    exchange = Exchange("chat", "gateway-1")
    exchange.fail(fault)
    await client.inbound.refuse(fault, exchange.request_id, response_headers(exchange, client.inbound))
    told = client.limits()
    assert client.status == 429
    assert (told["x-ratelimit-scope-requests"], told["x-ratelimit-remaining-requests"]) == ("project", "0")
    assert (told["x-ratelimit-scope-tokens"], told["x-ratelimit-remaining-tokens"]) == ("tenant", "1000")
    assert dict(client.headers)["retry-after"] == told["x-ratelimit-reset-requests"].removesuffix("s")
