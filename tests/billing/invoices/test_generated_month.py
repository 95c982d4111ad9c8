"""A February of 10⁵ requests with every price model, closed, credited and rated again: all adds up to the micro-yen.

The oracle counts request by request and knows nothing of the product but `priced_at`, which has tests of its own.
"""

import csv
import io
import random
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from billing.agreements import Agreement, Commitment, Credit, Provisioned
from billing.exports import focus
from billing.invoices.rerate import rerate
from billing.invoices.service import close, credit, find, preview
from billing.invoices.types import Invoice
from billing.off_peak import priced_at
from billing.prices import Graduated, OffPeak, Package, PriceList, Step, Terms, Volume
from billing.prices_store import credits_of, put_agreement, put_credit
from billing.rating import RateCard
from billing.types import Usage
from tests.billing.books import Books, Request, us

pytestmark = pytest.mark.e2e

REQUESTS = 100_000
MARCH_REQUESTS = 2_000
START, MIDDLE, END = (us(f"2028-{day}T00:00+09:00") for day in ("02-01", "02-16", "03-01"))
MARCH_END = us("2028-04-01T00:00+09:00")
LEAP_DAY = us("2028-02-29T00:00+09:00")

GRADUATED = Graduated((Step(1_000_000, 480), Step(3_000_000, 391), Step(None, 303)))
VOLUME = Volume((Step(2_000_000, 121), Step(None, 97)))
PACKAGE = Package(7_000_001, 3_333)
MEDIA = Terms(
    image=211, audio=307, batch=PriceList(61, 31, 241, image=103),
    off_peak=OffPeak("Asia/Tokyo", "22:30", "06:15", PriceList(83, 41, 359), days=(1, 2, 3, 4, 5)),
)  # fmt: skip


@dataclass
class Oracle:
    """What a month must cost, found by adding up one request after the other."""

    tokens: dict[tuple[str, str, str], int] = field(default_factory=lambda: defaultdict(int))
    cards: dict[tuple[str, str], RateCard] = field(default_factory=dict)

    def count(self, request: Request) -> None:
        card, usage = priced_at(request.card, request.opened_at, request.action), request.usage
        self.cards[card.rate_card_id, card.variant] = card
        left = usage.prompt - usage.cached
        parts = {"cached_input": usage.cached, "output": usage.completion}
        for kind, tokens, price in (
            ("image", usage.image, card.image_price), ("audio", usage.audio, card.audio_price)
        ):  # fmt: skip
            taken = min(tokens, left)
            left -= taken
            if price is not None:
                parts[kind] = taken
            else:
                parts["input"] = parts.get("input", 0) + taken
        parts["input"] = parts.get("input", 0) + left
        for kind, tokens in parts.items():
            self.tokens[card.rate_card_id, card.variant, kind] += tokens

    def micro_yen(self) -> int:
        return sum(self._cost(self.cards[card, variant], kind, n) for (card, variant, kind), n in self.tokens.items())

    def _cost(self, card: RateCard, kind: str, tokens: int) -> int:
        model = None if card.variant else card.terms.tiers.get(kind)
        if model is None:
            return tokens * card.price(kind)
        if isinstance(model, Package):
            return (tokens + model.tokens - 1) // model.tokens * model.yen * 10**6
        if isinstance(model, Volume):
            return tokens * (121 if tokens <= 2_000_000 else 97)
        first, second = min(tokens, 1_000_000), max(0, min(tokens, 3_000_000) - 1_000_000)
        return first * 480 + second * 391 + (tokens - first - second) * 303


def some_usage(rng: random.Random) -> Usage:
    prompt, completion = rng.randrange(1, 3_000), rng.randrange(0, 900)
    image = min(prompt, 64 * rng.randrange(3))
    audio = rng.randrange(prompt - image + 1) if rng.random() < 0.1 else 0
    return Usage(
        prompt, rng.randrange(prompt + 1) if rng.random() < 0.5 else 0, completion, rng.randrange(completion + 1),
        image=image, audio=audio,
    )  # fmt: skip


def requests_of(cards: dict[str, list[RateCard]], start: int, end: int, count: int, seed: int) -> list[Request]:
    """Requests of one month; the first few stand at its edges and, in a leap year, on the 29th."""
    rng = random.Random(seed)
    edges = [start, start + 1, end - 1, LEAP_DAY, LEAP_DAY + 1] if start == START else [start, end - 1]
    made = []
    for number in range(count):
        booked_at = edges[number] if number < len(edges) else rng.randrange(start, end)
        opened_at = booked_at - rng.randrange(60_000_000)
        name = rng.choice(("changed", "changed", "graduated", "volume", "package", "media", "media", "media"))
        old, *new = cards[name]
        card = new[0] if new and opened_at >= MIDDLE else old
        action = "batch" if name == "media" and rng.random() < 0.2 else "chat"
        made.append(Request(card, some_usage(rng), opened_at, action, booked_at))
    return made


async def all_cards(books: Books) -> dict[str, list[RateCard]]:
    model = f"changed-{books.tenant_id}"
    return {
        "changed": [
            await books.card(model),
            await books.card(model, "2028-02-16T00:00+09:00", input_price=133, output_price=511),
        ],
        "graduated": [await books.card(terms=Terms(tiers={"output": GRADUATED}))],
        "volume": [await books.card(input_price=121, terms=Terms(tiers={"input": VOLUME}))],
        "package": [await books.card(output_price=477, terms=Terms(tiers={"output": PACKAGE}))],
        "media": [await books.card(terms=MEDIA)],
    }  # fmt: skip


async def agreements(books: Books, cards: dict[str, list[RateCard]]) -> None:
    tenant = books.tenant_id
    package_model = cards["package"][0].model
    terms: tuple[tuple[Commitment | Provisioned, int], ...] = (
        (Provisioned("m-dedicated", 3, 777, "hour"), us("2028-02-10T10:30+09:00")),
        (Provisioned("m-dedicated", 2, 12_345, "month"), START),
        (Commitment(40_000, (package_model,)), START),
        (Commitment(1_000), START),
    )
    for number, (one, since) in enumerate(terms):
        await put_agreement(books.connection, Agreement(f"a{number}-{tenant}", tenant, since, None, one))
    for name, yen, expires in (("soon", 5_000, "2028-02-20T00:00+09:00"), ("late", 10**7, "2028-03-15T00:00+09:00")):
        await put_credit(books.connection, Credit(f"{name}-{tenant}", tenant, yen, START, us(expires), 0))


def agreed_yen(invoice: Invoice, hours: int, package_yen: int) -> int:
    """What is not tokens: throughput by the hour and the month, and what is missing to the commitment."""
    assert 0 < package_yen < 40_000
    dedicated, missing = 3 * hours * 777 + 2 * 12_345, 40_000 - package_yen
    assert sum(line.yen for line in invoice.lines if line.kind == "provisioned") == dedicated
    assert [line.yen for line in invoice.lines if line.kind == "commitment"] == [missing]
    return dedicated + missing


def check_invoice(invoice: Invoice, oracle: Oracle, hours: int, package_model: str) -> None:
    """Quantities, money and tax of a document against the oracle."""
    by_tokens = [line for line in invoice.lines if line.kind in ("usage", "package")]
    counted: dict[tuple[str, str, str], int] = defaultdict(int)
    for line in by_tokens:
        variant = line.tier if line.tier in ("batch", "off_peak") else ""
        counted[line.rate_card_id, variant, line.token_kind] += line.quantity
    packaged = {key for key in oracle.tokens if key[2] == "output" and oracle.cards[key[0], ""].model == package_model}
    for key, tokens in oracle.tokens.items():
        assert counted[key] == (-(-tokens // PACKAGE.tokens) if key in packaged else tokens), key
    assert sum(line.micro_yen for line in by_tokens) == oracle.micro_yen()
    for line in invoice.lines:
        assert line.micro_yen + line.carried_in_micro_yen == line.yen * 10**6 + line.carried_out_micro_yen
    package_yen = sum(line.yen for line in by_tokens if line.model == package_model)
    assert invoice.subtotal_yen == sum(line.yen for line in by_tokens) + agreed_yen(invoice, hours, package_yen)
    assert [tax.tax_yen for tax in invoice.taxes] == [invoice.subtotal_yen * 100 // 1000]
    assert invoice.total_yen == invoice.subtotal_yen + invoice.tax_yen == invoice.payable_yen + invoice.prepaid_yen


async def test_month_of_a_hundred_thousand_requests_adds_up_to_the_micro_yen(
    owner: Any, books: Books, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    cards = await all_cards(books)
    await agreements(books, cards)
    february = requests_of(cards, START, END, REQUESTS, seed=20280229)
    march = requests_of(cards, END, MARCH_END, MARCH_REQUESTS, seed=20280331)
    await books.settle(february)
    await books.settle(march)
    oracles = Oracle(), Oracle()
    for oracle, requests in zip(oracles, (february, march), strict=True):
        for request in requests:
            oracle.count(request)
    package_model = cards["package"][0].model

    draft = await preview(database, books.tenant_id, "2028-02")
    first = await close(database, books.tenant_id, "2028-02", END)
    assert draft.lines == first.lines and draft.payable_yen == first.payable_yen
    check_invoice(first, oracles[0], 19 * 24 + 13, package_model)
    assert {line.tier for line in first.lines} >= {"batch", "off_peak", "1-1000000", "1000001-3000000", "3000001-"}
    assert {line.token_kind for line in first.lines} >= {"input", "cached_input", "output", "image", "audio"}
    assert len({line.rate_card_id for line in first.lines if line.model == cards["changed"][0].model}) == 2

    second = await close(database, books.tenant_id, "2028-03", MARCH_END)
    check_invoice(second, oracles[1], 31 * 24, package_model)
    assert sum(line.carried_in_micro_yen for line in second.lines) > 0
    assert (first.prepaid_yen, second.prepaid_yen) == (
        min(first.total_yen, 10**7 + 5_000), min(second.total_yen, 10**7 + 5_000 - first.prepaid_yen),
    )  # fmt: skip

    note = await credit(database, first.number, "2月29日の障害", {1: 50, first.lines[-1].number: 105}, MARCH_END)
    assert (note.subtotal_yen, note.tax_yen, note.issued_on) == (155, 15, date(2028, 4, 1))
    await check_books(books, [first, second], note)
    assert [billed_yen(one) for one in (first, second, note)] == [
        first.payable_yen, second.payable_yen, -note.payable_yen,
    ]  # fmt: skip
    await owner.execute("ANALYZE journal, ledger_entry")  # what the planner knows makes no difference to the bytes
    for invoice in (first, second):
        assert (await rerate(database, invoice.number)).identical
    assert len(await find(database, books.tenant_id, issued_from=date(2028, 3, 1), issued_to=date(2028, 4, 1))) == 3


def billed_yen(invoice: Invoice) -> Decimal:
    """Σ BilledCost of the document's FOCUS file, whose only InvoiceId is the document's number."""
    rows = list(csv.DictReader(io.StringIO(focus.render(invoice).decode("utf-8-sig"))))
    assert {row["InvoiceId"] for row in rows} == {invoice.number}
    return sum((Decimal(row["BilledCost"]) for row in rows), Decimal(0))


async def check_books(books: Books, invoices: list[Invoice], note: Invoice) -> None:
    """Σ ledger = Σ documents ± carried fractions, account by account, and every entry has both sides."""
    carried, tenant = await books.carried(), books.tenant_id
    subtotal = sum(invoice.subtotal_yen for invoice in invoices) - note.subtotal_yen
    tax = sum(invoice.tax_yen for invoice in invoices) - note.tax_yen
    payable = sum(invoice.payable_yen for invoice in invoices) - note.payable_yen
    prepaid = sum(invoice.prepaid_yen for invoice in invoices)
    left = sum(one.left_yen for one in await credits_of(books.connection, tenant))
    breakage = 10**7 + 5_000 - prepaid - left
    assert carried > 0 and breakage > 0 and left == 0
    assert -await books.balance("revenue:%") == (subtotal + breakage) * 10**6 + carried
    assert -await books.balance("revenue:breakage") == breakage * 10**6
    assert -await books.balance("tax:%") == tax * 10**6
    assert await books.balance(f"receivable:{tenant}") == payable * 10**6 + carried
    assert -await books.balance(f"prepaid:{tenant}") == left * 10**6
    assert await books.balance("cash") == (10**7 + 5_000) * 10**6
    uneven = await books.connection.fetchval(
        "SELECT count(*) FROM (SELECT 1 FROM ledger_entry WHERE tenant_id = $1 GROUP BY request_id, line"
        " HAVING sum(debit) <> sum(credit)) entry",
        tenant,
    )
    assert uneven == 0
