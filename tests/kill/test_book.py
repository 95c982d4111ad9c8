"""The check of the books finds each kind of wrong, and lets the one ambiguous instant pass only where it can be."""

from dataclasses import replace

import pytest

from billing.rating import RateCard
from billing.types import Usage
from tests.kill.book import Counters, Facts, Row, check
from tests.kill.clients import Seen

ID, TENANT, PERIOD, AT = "r1", "t", "202611", 1_000.0
USAGE = Usage(10, 2, 5, 1)
PRICE = 8 * 120 + 2 * 60 + 5 * 480
ROW = Row(
    ID, TENANT, "m", "g1", PERIOD, "settled", "completed", "engine", 1,
    USAGE, PRICE, PRICE, PRICE, 1, AT, AT + 1, AT + 2,
)  # fmt: skip
CALL = Seen(TENANT, True, AT, request_id=ID, status=200, body_bytes=1)
GOOD = Facts(
    seen=[CALL],
    rows={ID: ROW},
    records={f"{ID}-1": USAGE},
    cards={"m": RateCard("c", "m", 0, None, 120, 60, 480)},
    counters={(TENANT, "", PERIOD): Counters(USAGE.total, PRICE)},
    holds=[],
    buried=0,
    gateway_deaths={},
    engine_deaths=[],
)
NOTHING = replace(ROW, state="voided", source="none", usage=Usage(), micro_yen=0, debit=0, credit=0)
UNSEEN = [replace(CALL, request_id="", status=0)]


def with_row(row: Row) -> Facts:
    """The good facts with another row; Valkey agrees with the journal."""
    return replace(GOOD, rows={ID: row}, counters={(TENANT, "", PERIOD): Counters(row.usage.total, row.micro_yen)})


def wrong(facts: Facts) -> set[str]:
    """The names of what is wrong."""
    return {name for name, found in check(facts).wrong.items() if found}


def test_good_books_pass() -> None:
    assert wrong(GOOD) == set()


@pytest.mark.parametrize(
    ("facts", "names"),
    [
        (replace(GOOD, rows={}, counters={}), {"lost"}),
        (with_row(NOTHING), {"lost"}),
        (with_row(replace(ROW, state="streaming")), {"lost"}),
        (with_row(replace(ROW, audits=0)), {"lost"}),
        (replace(GOOD, buried=1), {"lost"}),
        (replace(GOOD, seen=[CALL, CALL]), {"doubled"}),
        (with_row(replace(ROW, debit=2 * PRICE, credit=2 * PRICE)), {"doubled"}),
        (with_row(replace(ROW, audits=2)), {"doubled"}),
        (replace(GOOD, counters={(TENANT, "", PERIOD): Counters(2 * USAGE.total, 2 * PRICE)}), {"mismatched"}),
        (replace(GOOD, records={f"{ID}-1": Usage(10, 2, 6, 1)}), {"mismatched"}),
        (replace(GOOD, records={}), {"mismatched"}),
        (replace(with_row(replace(ROW, source="witness")), records={}, engine_deaths=[AT + 1]), {"mismatched"}),
        (with_row(replace(ROW, micro_yen=1, debit=1, credit=1)), {"mismatched"}),
        (with_row(replace(ROW, credit=0)), {"negative_balances"}),
        (replace(GOOD, seen=UNSEEN), {"charged_undelivered"}),
        (replace(GOOD, seen=UNSEEN, gateway_deaths={"g1": AT + 60}), {"charged_undelivered"}),
        (replace(GOOD, seen=UNSEEN, gateway_deaths={"g2": AT + 2}), {"charged_undelivered"}),
        (replace(GOOD, holds=[ID]), {"holds_left"}),
        (replace(GOOD, counters={(TENANT, "", PERIOD): Counters(USAGE.total, PRICE, 1, 1)}), {"holds_left"}),
        (replace(GOOD, counters={**GOOD.counters, (TENANT, "key:k", PERIOD): Counters(1, PRICE)}), {"mismatched"}),
        (replace(GOOD, counters={(TENANT, "", PERIOD): Counters(USAGE.total, PRICE, -1, 0)}), {"negative_balances"}),
    ],
)
def test_each_wrong_is_found_under_its_name(facts: Facts, names: set[str]) -> None:
    assert wrong(facts) == names


def test_usage_that_the_client_was_told_must_be_the_booked_one() -> None:
    told = {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 2}}
    right = {**told, "completion_tokens_details": {"reasoning_tokens": 1}}
    assert wrong(replace(GOOD, seen=[replace(CALL, complete=True, usage=right)])) == set()
    assert wrong(replace(GOOD, seen=[replace(CALL, complete=True, usage=told)])) == {"mismatched"}


def test_death_right_after_the_durable_word_counts_as_delivered() -> None:
    found = check(replace(GOOD, seen=UNSEEN, gateway_deaths={"g1": AT + 1.1}))
    assert not any(found.wrong.values())
    assert found.ambiguous == {ID}


def test_death_of_the_database_and_then_of_the_gateway_that_waited_for_it_counts_as_delivered() -> None:
    waited = replace(GOOD, seen=UNSEEN, gateway_deaths={"g1": AT + 9}, postgresql_deaths=[AT + 1.2])
    assert check(waited).ambiguous == {ID}
    assert wrong(replace(waited, postgresql_deaths=[AT + 8])) == {"charged_undelivered"}
    assert wrong(replace(waited, gateway_deaths={})) == {"charged_undelivered"}


def test_client_that_leaves_a_whole_answer_in_its_instant_counts_as_delivered() -> None:
    gone = replace(UNSEEN[0], left=True, left_at=AT + 1.1)
    assert check(replace(GOOD, seen=[gone])).ambiguous == {ID}
    assert wrong(replace(GOOD, seen=[replace(gone, left_at=AT + 9)])) == {"charged_undelivered"}
    assert wrong(replace(GOOD, seen=[replace(gone, tenant_id="other")])) == {"charged_undelivered"}


def test_delivery_that_died_with_database_and_gateway_is_lost() -> None:
    seen = [replace(CALL, answered_at=AT + 1)]
    died = replace(with_row(NOTHING), seen=seen, gateway_deaths={"g1": AT + 2}, postgresql_deaths=[AT + 1.3])
    assert wrong(died) == {"lost"}
    assert wrong(replace(died, rows={}, counters={})) == {"lost"}


def test_checkpoint_counts_only_without_a_record_and_is_called_uncertain() -> None:
    recovered = replace(ROW, state="recovered", source="checkpoint")
    found = check(replace(with_row(recovered), records={}, engine_deaths=[AT + 1]))
    assert not any(found.wrong.values())
    assert found.uncertain_tokens == USAGE.total
    assert wrong(replace(with_row(recovered), records={f"{ID}-1": Usage(10, 2, 6, 1)})) == {"mismatched"}


@pytest.mark.parametrize("outcome", ["upstream_failed", "client_gone"])
def test_engine_that_died_after_its_record_leaves_the_rest_to_the_platform(outcome: str) -> None:
    short = with_row(replace(ROW, outcome=outcome))
    record = {f"{ID}-1": Usage(10, 3, 6, 1)}
    found = check(replace(short, records=record, engine_deaths=[AT + 1]))
    assert not any(found.wrong.values())
    assert (found.below_record_tokens, found.cached_unknown_tokens) == (1, 1)
    assert wrong(replace(short, records=record)) == {"mismatched"}  # the engine lived
    above = {f"{ID}-1": Usage(10, 2, 4, 1)}
    assert wrong(replace(short, records=above, engine_deaths=[AT + 1])) == {"mismatched"}
