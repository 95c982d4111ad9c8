"""Recovery: the rows that a dead process left unfinished are settled once, from the best count there is.

open, dispatched   nothing was delivered                      → voided, charged with nothing
streaming          the engine's own record, if it has one     → recovered, exact
                   else the last checkpoint                   → recovered, in the customer's favour
"""

from dataclasses import dataclass
from typing import Any, Literal

from billing.off_peak import priced_at
from billing.prices import parse_terms
from billing.rating import RateCard
from billing.types import Usage

_UNFINISHED = """
SELECT j.request_id::text AS request_id, j.tenant_id, j.key_id, j.model, j.action, j.rule_id,
  j.licence_id, j.licence_version, j.epoch, j.rate_card_id, j.instance_id, j.period, j.state, j.attempt,
  (extract(epoch FROM j.opened_at) * 1000000)::bigint AS opened_at, u.witness_url,
  p.prompt_tokens, p.cached_tokens, p.completion_tokens, p.reasoning_tokens, p.image_tokens, p.audio_tokens,
  r.input_price, r.cached_input_price, r.output_price, r.terms::text AS terms
FROM journal j LEFT JOIN journal_progress p ON p.request_id = j.request_id AND p.attempt = j.attempt
LEFT JOIN upstream u ON u.upstream_id = j.upstream_id
LEFT JOIN rate_card r ON r.rate_card_id = j.rate_card_id
WHERE j.state IN ('open', 'dispatched', 'streaming') AND j.instance_id = $1 AND j.request_id > $3::text::uuid
ORDER BY j.request_id LIMIT $2
"""

_FIRST = "00000000-0000-0000-0000-000000000000"

# Rows whose process has no heartbeat row at all would otherwise never be looked at.
_OWNERS = """
SELECT DISTINCT instance_id FROM journal WHERE state IN ('open', 'dispatched', 'streaming')
"""

_FINAL = """
SELECT request_id::text AS request_id, state, prompt_tokens + completion_tokens AS tokens, micro_yen
FROM journal WHERE request_id = ANY($1::text[]::uuid[])
"""

_ORPHANS = """
DELETE FROM journal_progress p USING journal j
WHERE j.request_id = p.request_id AND j.state IN ('settled', 'recovered', 'voided')
"""


_COUNTED = ("prompt", "cached", "completion", "reasoning", "image", "audio")
"""Checkpointed counts, in the order of `Usage`."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A row that its process will not finish. `checkpoint` is the last usage it wrote down, None if it wrote none;
    `witness_url` is where its engine keeps a record; `card` its prices, None when the rate card is gone."""

    request_id: str
    tenant_id: str
    key_id: str
    model: str
    action: str
    rule_id: str
    licence_id: str
    licence_version: int
    epoch: int
    rate_card_id: str
    instance_id: str
    period: str
    state: Literal["open", "dispatched", "streaming"]
    attempt: int
    opened_at: int
    witness_url: str | None
    card: RateCard | None
    checkpoint: Usage | None

    @property
    def delivered(self) -> bool:
        """Whether the client may have got a byte."""
        return self.state == "streaming"

    @property
    def attempt_id(self) -> str:
        """The name under which the engine knows it."""
        return f"{self.request_id}-{self.attempt}"


@dataclass(frozen=True, slots=True)
class Final:
    """What a request's row says: whether it is final, and what it used."""

    request_id: str
    final: bool
    tokens: int
    micro_yen: int


async def unfinished(connection: Any, instance_id: str, limit: int, after: str = "") -> list[Unfinished]:
    """At most `limit` unfinished rows of a process, oldest first; those behind the request `after`, if one is named."""
    rows = await connection.fetch(_UNFINISHED, instance_id, limit, after or _FIRST)
    return [_unfinished(dict(row)) for row in rows]


def _unfinished(row: dict[str, Any]) -> Unfinished:
    counts = [row.pop(f"{kind}_tokens") for kind in _COUNTED]
    prices = {name: row.pop(name) for name in ("input_price", "cached_input_price", "output_price", "terms")}
    card = None if prices["terms"] is None else _card(row, prices)
    return Unfinished(**row, card=card, checkpoint=None if counts[0] is None else Usage(*counts))


def _card(row: dict[str, Any], prices: dict[str, Any]) -> RateCard:
    """Its prices were fixed when it was opened: from when to when the card is in force does not matter any more."""
    terms = parse_terms(prices.pop("terms"))
    card = RateCard(
        row["rate_card_id"], row["model"], 0, None, **prices, terms=terms, image_price=terms.image,
        audio_price=terms.audio,
    )  # fmt: skip
    return priced_at(card, row["opened_at"], row["action"])


async def owners(connection: Any) -> set[str]:
    """The processes that unfinished rows name."""
    return {row["instance_id"] for row in await connection.fetch(_OWNERS)}


async def finals(connection: Any, request_ids: list[str]) -> dict[str, Final]:
    """The rows of these requests, by id; requests without a row are absent."""
    rows = await connection.fetch(_FINAL, request_ids)
    return {
        row["request_id"]: Final(
            row["request_id"], row["state"] in ("settled", "recovered", "voided"), row["tokens"], row["micro_yen"]
        )
        for row in rows
    }


async def sweep_checkpoints(connection: Any) -> None:
    """Delete checkpoints of settled requests (a late write can bring one back)."""
    await connection.fetch(_ORPHANS)
