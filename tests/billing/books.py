"""A tenant's books for tests: requests as settlement leaves them, copied into journal and ledger in one go."""

import asyncio
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from billing.invoices.parties import Issuer, put_issuer, put_party
from billing.invoices.types import Party
from billing.off_peak import priced_at
from billing.prices import NO_TERMS, Terms
from billing.prices_store import put_card
from billing.rating import RateCard, rate
from billing.types import Usage

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ISSUER = Party("株式会社関所", "T7000012050002", "7000012050002", "100-0001", "東京都千代田区千代田1-1")

_JOURNAL = (
    "request_id", "tenant_id", "key_id", "model", "action", "epoch", "rate_card_id", "instance_id", "state", "outcome",
    "prompt_tokens", "cached_tokens", "image_tokens", "audio_tokens", "completion_tokens", "reasoning_tokens",
    "micro_yen", "usage_source", "opened_at", "settled_at", "booked_at",
)  # fmt: skip
_LEDGER = (
    "request_id", "line", "account", "tenant_id", "kind", "quantity", "unit_price", "debit", "credit", "booked_at",
)  # fmt: skip


def us(text: str) -> int:
    """Microseconds since the epoch of an ISO time with its offset."""
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(microseconds=1)


def at(micros: int) -> datetime:
    return EPOCH + timedelta(microseconds=micros)


@dataclass(frozen=True, slots=True)
class Request:
    """A settled request; it is booked at `booked_at`, by default a second after it was opened."""

    card: RateCard
    usage: Usage
    opened_at: int
    action: str = "chat"
    booked_at: int = 0


@dataclass
class Books:
    """One tenant with an issuer of its own, so that its numbers are its own."""

    connection: Any
    tenant_id: str = field(default_factory=lambda: f"t-{uuid4().hex[:12]}")
    zone: str = "Asia/Tokyo"

    async def open(self, **issuer: Any) -> "Books":
        """Enter the tenant and both parties."""
        await self.connection.execute(
            "INSERT INTO tenant (tenant_id, legal_name, zone, tokens_month, micro_yen_month, rpm, concurrency,"
            " created_at) VALUES ($1, $2, $3, 1, 1, 1, 1, '2020-01-01')",
            self.tenant_id, f"合同会社{self.tenant_id}", self.zone,
        )  # fmt: skip
        values: dict[str, Any] = {"party": ISSUER, "number_prefix": uuid4().hex[:8].upper(), **issuer}
        await put_issuer(self.connection, Issuer(self.tenant_id, **values))
        await put_party(self.connection, self.tenant_id, self.tenant_id, Party(f"株式会社ＡＢＣ {self.tenant_id}"))
        return self

    async def card(self, model: str = "", since: str = "2020-01-01T00:00+09:00", **prices: Any) -> RateCard:
        """A new card; unit prices are those of the demo unless given."""
        terms: Terms = prices.pop("terms", NO_TERMS)
        values = {"input_price": 120, "cached_input_price": 60, "output_price": 480, **prices}
        card = RateCard(
            f"card-{uuid4().hex[:12]}", model or f"m-{uuid4().hex[:8]}", us(since), None, terms=terms,
            image_price=terms.image, audio_price=terms.audio, **values,
        )  # fmt: skip
        await put_card(self.connection, card)
        return card

    async def settle(self, requests: Iterable[Request]) -> None:
        """Write the requests. Needs the owner's connection: COPY of final rows."""
        journal: list[tuple[Any, ...]] = []
        ledger: list[tuple[Any, ...]] = []
        for request in requests:
            self._write(request, journal, ledger)
        months = {row[-3].strftime("%Y-%m-01") for row in journal}
        for month in months:
            await self.connection.execute("SELECT journal_ensure_partitions($1::text::timestamptz, 1)", month)
        await self.connection.copy_records_to_table("journal", records=journal, columns=_JOURNAL)
        await self.connection.copy_records_to_table("ledger_entry", records=ledger, columns=_LEDGER)

    def _write(self, request: Request, journal: list[tuple[Any, ...]], ledger: list[tuple[Any, ...]]) -> None:
        card, usage = request.card, request.usage
        lines = rate(usage, priced_at(card, request.opened_at, request.action))
        request_id = uuid7(request.opened_at)
        booked_at = at(request.booked_at or request.opened_at + 1_000_000)
        journal.append(
            (request_id, self.tenant_id, "k" * 12, card.model, request.action, 1, card.rate_card_id, "test", "settled",
             "completed", usage.prompt, usage.cached, usage.image, usage.audio, usage.completion, usage.reasoning,
             sum(line.amount for line in lines), "engine", at(request.opened_at), booked_at, booked_at)
        )  # fmt: skip
        for number, line in enumerate(lines, 1):
            for account, debit, credit in (
                (f"receivable:{self.tenant_id}", line.amount, 0), (f"revenue:{card.model}", 0, line.amount)
            ):  # fmt: skip
                ledger.append(
                    (request_id, number, account, self.tenant_id, line.kind, line.quantity, line.unit_price, debit,
                     credit, booked_at)
                )  # fmt: skip

    async def balance(self, account: str) -> int:
        """Debits less credits of an account of this tenant, in micro-yen."""
        found: int = await self.connection.fetchval(
            "SELECT coalesce(sum(debit) - sum(credit), 0)::bigint FROM ledger_entry"
            " WHERE tenant_id = $1 AND account LIKE $2",
            self.tenant_id, account,
        )  # fmt: skip
        return found

    async def carried(self) -> int:
        """Micro-yen that the next invoices begin with."""
        found: int = await self.connection.fetchval(
            "SELECT coalesce(sum(micro_yen), 0)::bigint FROM (SELECT DISTINCT ON (line_key) micro_yen"
            " FROM carried_fraction WHERE tenant_id = $1 ORDER BY line_key, period_end DESC) newest",
            self.tenant_id,
        )  # fmt: skip
        return found


async def until_it_waits(dsn: str, pid: int) -> None:
    """Wait until the server process `pid` waits for somebody's lock. Asked outside of any transaction, by one who may
    see it."""
    waits = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock'"
    connection = await asyncpg.connect(dsn)
    try:
        async with asyncio.timeout(20):
            while not await connection.fetchval(waits, pid):  # noqa: ASYNC110 # PostgreSQL tells nobody
                await asyncio.sleep(0.01)
    finally:
        await connection.close()


def uuid7(opened_at: int) -> UUID:
    """An id of the time `opened_at` (RFC 9562 §5.7), random otherwise."""
    random = int.from_bytes(os.urandom(10), "big")
    value = (opened_at // 1_000 << 80) | random
    return UUID(int=value & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62)


def kinds(requests: Sequence[Request]) -> dict[str, int]:
    """Tokens by booked kind, request by request."""
    totals: dict[str, int] = {}
    for request in requests:
        for line in rate(request.usage, priced_at(request.card, request.opened_at, request.action)):
            totals[line.kind] = totals.get(line.kind, 0) + line.quantity
    return totals
