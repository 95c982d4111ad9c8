"""Reads a request's credentials, and where they come from, out of its ASGI scope.

A proxy in front of the gateway may tell the client's address, the URL that the client used and its certificate
(`Client-Cert`, RFC 9440). Such headers count only when the connection itself comes from a configured proxy: from
anybody else they are a claim that costs nothing to make.
"""

import base64
import binascii
from typing import Any

from gateway.identity.addresses import inside, parse_address
from gateway.identity.credentials import Presented
from gateway.identity.settings import Networks

# Where the protocol leaves the certificate: `scope["extensions"][TLS_EXTENSION]["client_certificate"]`, in DER.
TLS_EXTENSION = "sekisho.tls"
_READ = frozenset({
    b"authorization", b"dpop", b"host", b"client-cert", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host",
})  # fmt: skip


def presented_of(scope: Any, trusted: Networks = ()) -> Presented:
    """What the request of an ASGI HTTP `scope` presents; `trusted` are the networks of proxies.

    A header that stands twice is joined with a comma (RFC 9110 §5.2), which no credential survives.
    """
    read: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        if name in _READ:
            text = value.decode("latin-1")
            read[name] = f"{read[name]}, {text}" if name in read else text
    peer = (scope.get("client") or ("", 0))[0]
    scheme, host, certificate = scope["scheme"], read.get(b"host", ""), _of_connection(scope)
    if trusted and inside(parse_address(peer), trusted):
        scheme = _last(read.get(b"x-forwarded-proto", scheme)).lower()
        host = _last(read.get(b"x-forwarded-host", host))
        certificate = _client_cert(read.get(b"client-cert"))
        peer = _client(read.get(b"x-forwarded-for", ""), peer, trusted)
    path = scope.get("raw_path") or scope["path"].encode()
    return Presented(
        authorization=read.get(b"authorization"),
        dpop=read.get(b"dpop"),
        method=scope["method"],
        url=f"{scheme}://{host}{path.decode('latin-1')}",
        address=peer,
        certificate=certificate,
    )


def _of_connection(scope: Any) -> bytes | None:
    tls = (scope.get("extensions") or {}).get(TLS_EXTENSION)
    return None if tls is None else tls["client_certificate"]


def _last(values: str) -> str:
    """The value that the nearest proxy added."""
    return values.rpartition(",")[2].strip()


def _client(forwarded: str, peer: str, trusted: Networks) -> str:
    """The last address of `X-Forwarded-For` that is not a proxy of ours; what stands left of it anyone can invent."""
    client = peer
    for entry in reversed(forwarded.split(",")):
        address = parse_address(_without_port(entry.strip()))
        if address is None:
            return client
        client = str(address)
        if not inside(address, trusted):
            return client
    return client


def _without_port(entry: str) -> str:
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry


def _client_cert(value: str | None) -> bytes | None:
    """The DER of a `Client-Cert` header: one byte sequence of structured fields, `:base64:` (RFC 9440 §2.2)."""
    if value is None or len(value) < 3 or value[0] != ":" or value[-1] != ":":
        return None
    try:
        return base64.b64decode(value[1:-1].encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        return None
