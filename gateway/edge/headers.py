"""Response headers of the data plane."""

from gateway.edge.exchange import Exchange
from gateway.edge.inbound import Inbound
from gateway.licensing.decide import permitted_until
from gateway.licensing.times import from_us
from gateway.limits.headroom import ratelimit_headers

CLIENT_REQUEST_ID_CHARS_MAX = 128


def response_headers(exchange: Exchange, inbound: Inbound) -> list[tuple[bytes, bytes]]:
    """Ids, licence, limits; the outcome where it is known, which for a stream it is not."""
    headers = [(b"x-request-id", exchange.request_id.encode())]
    theirs = inbound.header(b"x-request-id")
    if theirs is not None and len(theirs) <= CLIENT_REQUEST_ID_CHARS_MAX and theirs.isascii() and theirs.isprintable():
        headers.append((b"x-client-request-id", theirs.encode("ascii")))
    if exchange.licence:
        headers.append((b"x-sekisho-licence", exchange.licence.encode()))
    if exchange.decision is not None and exchange.decision.in_grace:
        ends = from_us(permitted_until(exchange.decision))
        headers.append((b"x-sekisho-licence-grace", ends.encode()))
    if exchange.upstream is not None:
        headers.append((b"x-sekisho-region", exchange.upstream.region.encode()))
    if exchange.hold is not None:
        left = ratelimit_headers(exchange.hold.requests_left, exchange.hold.tokens_left)
        headers += [(name.encode(), value.encode()) for name, value in left.items()]
    if exchange.fault is None and exchange.call is not None:
        if exchange.call.stream:
            headers += [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"),
                        (b"x-accel-buffering", b"no")]  # fmt: skip
        elif exchange.outcome is not None:
            headers.append((b"x-sekisho-outcome", exchange.outcome.encode()))
    return headers
