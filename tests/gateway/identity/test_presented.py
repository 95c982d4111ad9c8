"""What a request presents: headers about the client count from configured proxies only."""

import base64
from ipaddress import ip_network
from typing import Any

import pytest

from gateway.identity.addresses import attempts_origin
from gateway.identity.presented import TLS_EXTENSION, presented_of

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
CERTIFICATE = b"\x30\x82certificate"
CLIENT_CERT = f":{base64.b64encode(CERTIFICATE).decode()}:"


def scope(*headers: tuple[str, str], peer: str | None = "198.51.100.7", **fields: Any) -> dict[str, Any]:
    return {
        "type": "http", "method": "POST", "scheme": "https", "path": "/v1/x", "raw_path": b"/v1/%78",
        "client": None if peer is None else (peer, 4711),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers], **fields,
    }  # fmt: skip


FORWARDED = (
    ("host", "inside:8080"), ("x-forwarded-for", "203.0.113.9"), ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "gateway.example.jp"), ("client-cert", CLIENT_CERT),
)  # fmt: skip


def test_headers_of_the_connection_itself_are_taken() -> None:
    presented = presented_of(
        scope(("host", "Gateway.example.jp"), ("authorization", "Bearer x"), ("dpop", "p"),
              extensions={TLS_EXTENSION: {"client_certificate": CERTIFICATE}})
    )  # fmt: skip
    assert (presented.authorization, presented.dpop, presented.method) == ("Bearer x", "p", "POST")
    assert (presented.url, presented.address) == ("https://Gateway.example.jp/v1/%78", "198.51.100.7")
    assert presented.certificate == CERTIFICATE


@pytest.mark.parametrize("trusted", [(), PROXIES])
def test_forwarded_headers_of_anybody_else_are_ignored(trusted: Any) -> None:
    presented = presented_of(scope(*FORWARDED, scheme="http"), trusted)
    assert (presented.url, presented.address) == ("http://inside:8080/v1/%78", "198.51.100.7")
    assert presented.certificate is None


@pytest.mark.parametrize("peer", ["10.1.2.3", "::ffff:10.1.2.3", "fd00::1"])
def test_forwarded_headers_of_a_configured_proxy_count(peer: str) -> None:
    presented = presented_of(scope(*FORWARDED, peer=peer, scheme="http"), PROXIES)
    assert (presented.url, presented.address) == ("https://gateway.example.jp/v1/%78", "203.0.113.9")
    assert presented.certificate == CERTIFICATE


def test_certificate_of_the_proxys_own_connection_is_not_the_clients() -> None:
    own = {TLS_EXTENSION: {"client_certificate": b"the proxy's"}}
    assert presented_of(scope(peer="10.1.2.3", extensions=own), PROXIES).certificate is None


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [("203.0.113.9", "203.0.113.9"), ("192.0.2.1, 203.0.113.9", "203.0.113.9"),
     ("192.0.2.1, 203.0.113.9, 10.9.9.9", "203.0.113.9"), ("10.9.9.9", "10.9.9.9"), ("", "10.1.2.3"),
     ("203.0.113.9:1234", "203.0.113.9"), ("[2001:db8::1]:1234", "2001:db8::1"), ("2001:db8::1", "2001:db8::1"),
     ("203.0.113.9, junk", "10.1.2.3"), ("junk, 203.0.113.9", "203.0.113.9"), ("::ffff:203.0.113.9", "203.0.113.9"),
     ("203.0.113.9, unknown, 10.9.9.9", "10.9.9.9")],
)  # fmt: skip
def test_client_is_the_last_address_that_is_no_proxy(forwarded: str, address: str) -> None:
    presented = presented_of(scope(("x-forwarded-for", forwarded), peer="10.1.2.3"), PROXIES)
    assert presented.address == address


@pytest.mark.parametrize(
    "value",
    ["", ":", "::", "AAAA", ":AAAA", ":A:", ":AA*A:", f"{CLIENT_CERT}, {CLIENT_CERT}", f"{CLIENT_CERT};p=1", ":é:"],
)
def test_client_cert_that_is_no_byte_sequence_is_no_certificate(value: str) -> None:
    assert not presented_of(scope(("client-cert", value), peer="10.1.2.3"), PROXIES).certificate


def test_header_that_stands_twice_is_joined() -> None:
    presented = presented_of(scope(("authorization", "Bearer a"), ("dpop", "p"), ("dpop", "q"), ("authorization", "b")))
    assert (presented.authorization, presented.dpop) == ("Bearer a, b", "p, q")


def test_connection_without_an_address_is_no_proxy() -> None:
    presented = presented_of(scope(*FORWARDED, peer=None), (ip_network("0.0.0.0/0"), ip_network("::/0")))
    assert (presented.address, presented.certificate) == ("", None)


@pytest.mark.parametrize(
    ("address", "origin"),
    [("192.0.2.1", "192.0.2.1"), ("::ffff:192.0.2.1", "192.0.2.1"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
     ("2001:db8:1:2::", "2001:db8:1:2::/64"), ("", ""), ("x" * 100, "x" * 64)],
)  # fmt: skip
def test_attempts_are_counted_per_host(address: str, origin: str) -> None:
    assert attempts_origin(address) == origin
