"""The pipeline's part in requests that come again under one `Idempotency-Key`."""

from typing import Any

from gateway.edge.exchange import Exchange
from gateway.edge.headers import response_headers
from gateway.edge.inbound import Inbound
from gateway.licensing.decide import SECRET
from gateway.repeats.answer import KeptAnswer
from gateway.repeats.asked import HEADER, canonical, hash_of, key_of
from gateway.repeats.service import Claim, Question, Repeats

REPLAYED = b"idempotent-replayed"
ORIGINAL = b"x-sekisho-original-request-id"


class Repeated(Exception):
    """The request is a repeat, and this is its answer."""

    def __init__(self, answer: KeptAnswer) -> None:
        super().__init__(answer.request_id)
        self.answer = answer


async def claimed(
    repeats: Repeats, exchange: Exchange, tree: dict[str, Any], path: str, inbound: Inbound
) -> Claim | None:
    """The request's claim of its key; None, with nothing asked of anybody, when it names no key.

    Raises `Repeated` with the answer of an earlier request, or `Fault`.
    """
    if inbound.header(HEADER) is None:
        return None
    asked = await repeats.ask(_question(exchange, tree, path, key_of(inbound.header_values(HEADER))))
    if isinstance(asked, KeptAnswer):
        raise Repeated(asked)
    return asked


def _question(exchange: Exchange, tree: dict[str, Any], path: str, key: str) -> Question:
    principal, ask, grant = exchange.principal, exchange.ask, exchange.grant
    assert principal is not None and ask is not None and grant is not None
    return Question(
        tenant_id=principal.tenant_id,
        key_hash=hash_of(principal.tenant_id, key),
        text=canonical(path, ask.purpose, ask.data_class, tree),
        request_id=exchange.request_id,
        instance_id=exchange.instance_id,
        key_id=principal.key_id,
        model=exchange.model,
        action=exchange.action,
        keeps=ask.data_class != SECRET and not grant.zero_retention,
    )


async def replay(exchange: Exchange, answer: KeptAnswer, inbound: Inbound) -> None:
    """Send a kept answer: the bytes of the first one, under this request's own id."""
    headers = response_headers(exchange, inbound)
    headers += [
        (REPLAYED, b"true"), (ORIGINAL, answer.request_id.encode()), (b"x-sekisho-region", answer.region.encode()),
    ]  # fmt: skip
    if answer.stream:
        await inbound.start(200, headers)
        await inbound.end(answer.body)
    else:
        await inbound.respond(200, headers, answer.body)
