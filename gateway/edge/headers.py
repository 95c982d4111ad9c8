"""Response headers of the data plane."""

from gateway.edge.exchange import Exchange
from gateway.edge.inbound import Inbound

CLIENT_REQUEST_ID_CHARS_MAX = 128


def response_headers(exchange: Exchange, inbound: Inbound) -> list[tuple[bytes, bytes]]:
    """Ids, licence, limits; the outcome where it is known, which for a stream it is not."""
    headers = [(b"x-request-id", exchange.request_id.encode())]
    theirs = inbound.header(b"x-request-id")
    if theirs is not None and len(theirs) <= CLIENT_REQUEST_ID_CHARS_MAX and theirs.isascii() and theirs.isprintable():
        headers.append((b"x-client-request-id", theirs.encode("ascii")))
    if exchange.grant is not None:
        headers.append((b"x-sekisho-licence", exchange.grant.licence.encode()))
    if exchange.upstream is not None and exchange.first_byte_at is not None:
        headers.append((b"x-sekisho-region", exchange.upstream.region.encode()))
    if exchange.hold is not None and exchange.tenant is not None:
        limits = exchange.tenant.limits
        headers += [
            (b"x-ratelimit-limit-requests", b"%d" % limits.rpm),
            (b"x-ratelimit-remaining-requests", b"%d" % exchange.hold.remaining_requests),
            (b"x-ratelimit-reset-requests", b"%ds" % exchange.hold.reset_s),
            (b"x-ratelimit-limit-tokens", b"%d" % limits.tokens_month),
            (b"x-ratelimit-remaining-tokens", b"%d" % exchange.hold.remaining_tokens),
        ]
    if exchange.fault is None and exchange.call is not None:
        if exchange.call.stream:
            headers += [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"),
                        (b"x-accel-buffering", b"no")]  # fmt: skip
        elif exchange.outcome is not None:
            headers.append((b"x-sekisho-outcome", exchange.outcome.encode()))
    return headers
