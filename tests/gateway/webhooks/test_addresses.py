"""No webhook reaches an address inside, however it is written, named or redirected to."""

import asyncio
import socket
from typing import Any

import pytest
from aiohttp import web

from gateway.webhooks.send import Sender
from tests.gateway.webhooks.receiving import LOOPBACK, Receiver

LITERALS = (
    "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "100.127.255.254", "198.18.0.1", "192.0.2.1", "224.0.0.1", "240.0.0.1",
    "255.255.255.255", "[::1]", "[::]", "[fe80::1]", "[fe80::1%25lo]", "[fc00::1]", "[fd00:ec2::254]", "[ff02::1]",
    "[::ffff:127.0.0.1]", "[::ffff:10.0.0.1]", "[::ffff:a9fe:a9fe]", "[::127.0.0.1]", "[64:ff9b::7f00:1]",
    "[64:ff9b:1::a00:1]", "[2002:7f00:1::]", "[2001:0:1::1]", "[fec0::1]", "[2001:db8::1]",
)  # fmt: skip
# Forms that only a resolver understands: it does, and then the address is judged.
ODD = ("2130706433", "0x7f000001", "127.1", "0177.0.0.1", "localhost", "localhost.", "LOCALHOST", "ip6-localhost")


@pytest.mark.parametrize("host", [*LITERALS, *ODD])
async def test_address_inside_is_never_connected_to(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def connected(*arguments: Any, **options: Any) -> Any:
        raise AssertionError(f"connected to {host}")

    monkeypatch.setattr("aiohttp.connector.aiohappyeyeballs.start_connection", connected)
    sender = Sender(())
    sent = await sender.send(f"https://{host}/hook", "{}", {})
    await sender.close()
    # A name that this machine does not know cannot be connected to either.
    assert sent.http_status is None
    assert sent.error == "address_not_permitted" or (host in ODD and sent.error == "connection"), sent


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.1.2.3"],
        ["169.254.169.254"],
        ["::ffff:192.168.0.1"],
        ["fd00::1"],
        ["93.184.215.14", "10.0.0.1"],
    ],
)
async def test_name_that_leads_inside_is_refused_even_if_only_one_of_its_addresses_does(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    def resolved(host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        return [
            (socket.AF_INET6 if ":" in one else socket.AF_INET, socket.SOCK_STREAM, 6, "",
             (one, port, 0, 0) if ":" in one else (one, port))
            for one in addresses
        ]  # fmt: skip

    async with Receiver() as receiver:
        monkeypatch.setattr(socket, "getaddrinfo", resolved)
        sender = Sender(())
        sent = await sender.send(f"https://hooks.partner.example:{receiver.port}/x", "{}", {})
        await sender.close()
    assert (sent.http_status, sent.error, receiver.paths) == (None, "address_not_permitted", [])


async def test_name_is_judged_anew_at_each_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: what was permitted a moment ago is no permission now, and what is judged is what is dialled."""
    answers = iter(["127.0.0.1", "10.0.0.1"])
    original = socket.getaddrinfo

    def resolved(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        return original(next(answers) if host == "rebound.example" else host, port, *arguments, **options)

    async with Receiver() as receiver:
        monkeypatch.setattr(socket, "getaddrinfo", resolved)
        sender = Sender(LOOPBACK)
        url = f"https://rebound.example:{receiver.port}/x"
        first, second = await sender.send(url, "{}", {}), await sender.send(url, "{}", {})
        await sender.close()
    assert first.error in ("tls", "connection")  # it got as far as the receiver, which speaks no TLS
    assert second.error == "address_not_permitted"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_is_a_failure_and_is_not_followed(status: int) -> None:
    async with Receiver() as inside:
        async with Receiver(lambda: web.Response(status=status, headers={"location": inside.url})) as receiver:
            sender = Sender(LOOPBACK)
            sent = await sender.send(receiver.url, "{}", {})
            await sender.close()
        assert (sent.http_status, sent.error, inside.paths) == (status, "redirect", [])


@pytest.mark.parametrize(
    "url", ["http://hooks.example/x", "ftp://hooks.example", "https://[", "//x", "", "file:///etc"]
)
async def test_only_https_is_spoken(url: str) -> None:
    sender = Sender(())
    assert (await sender.send(url, "{}", {})).error == "address_not_permitted"
    await sender.close()


async def test_environment_names_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Receiver() as proxy, Receiver() as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        sender = Sender(LOOPBACK)
        assert (await sender.send(receiver.url, "{}", {})).http_status == 200
        await sender.close()
        await asyncio.sleep(0)
        assert proxy.paths == []
