"""SIGKILL at each step of the way: what was delivered is booked exactly once, what was not is charged to nobody."""

from collections.abc import Sequence

import pytest

from billing.types import Usage
from tests.kill.book import Row
from tests.kill.clients import Kind
from tests.kill.drill import ENGINE_JOBS, GATEWAY_JOBS, STORE_JOBS, Report
from tests.kill.failpoints import WORKER_POINTS
from tests.kill.stack import TENANTS, Kill
from tests.kill.stores import STORES

# The first test waits for the whole campaign.
pytestmark = [pytest.mark.kill, pytest.mark.timeout(360)]

NO_ROW = "no row"
# What the row of the very request at the point must be in the end, and whether its client had the first byte (None:
# either, the point does not say). Before the mark nothing is charged; from the mark on the request counts as delivered.
STREAM_FATES: dict[str, tuple[tuple[str, ...], bool | None]] = {
    "after_identify": ((NO_ROW,), False),
    "after_claim": ((NO_ROW, "voided"), False),
    "after_reserve": ((NO_ROW, "voided"), False),
    "after_open_queued": ((NO_ROW, "voided"), False),
    "after_open_durable": (("voided",), False),
    "after_dispatch": ((NO_ROW, "voided"), False),
    "before_first_byte": (("voided",), False),
    "after_mark_before_write": (("recovered",), False),
    "after_first_byte": (("recovered", "settled"), True),
    "mid_stream": (("recovered",), True),
    "before_settle": (("recovered",), True),
    "after_settle_before_release": (("settled",), True),
    "after_release": (("settled",), True),
}
WHOLE_FATES: dict[str, tuple[tuple[str, ...], bool | None]] = {
    **STREAM_FATES,
    "mid_stream": ((NO_ROW, "voided"), False),
}


def the_deaths(report: Report, point: str, kind: Kind) -> Sequence[Kill]:
    """The deaths at this point; there must be one."""
    found = [kill for kill in report.deaths if (kill.point, kill.kind) == (point, kind) and kill.victim not in STORES]
    assert found, f"nothing died at {point}/{kind}: {report.missed}"
    return found


def was_delivered(report: Report, request_id: str) -> bool:
    """Whether a client got the first byte of this request."""
    return any(call.request_id == request_id and call.delivered for call in report.facts.seen)


def charge(row: Row | None) -> tuple[int, Usage]:
    """Micro-yen and tokens of a row; nothing for none."""
    return (0, Usage()) if row is None else (row.micro_yen + row.debit, row.usage)


@pytest.mark.parametrize(("point", "kind"), GATEWAY_JOBS)
def test_gateway_killed_at_a_point_leaves_its_request_as_the_rule_says(report: Report, point: str, kind: Kind) -> None:
    states, delivered = (STREAM_FATES if kind == "stream" else WHOLE_FATES)[point]
    for kill in the_deaths(report, point, kind):
        row = report.facts.rows.get(kill.request_id)
        assert (NO_ROW if row is None else row.state) in states
        assert delivered is None or was_delivered(report, kill.request_id) == delivered
        if row is None or row.state == "voided":
            assert charge(row) == (0, Usage())
        else:
            assert row.usage == report.facts.records[f"{row.request_id}-{row.attempt}"]
            assert row.micro_yen > 0


@pytest.mark.parametrize(("point", "kind"), ENGINE_JOBS)
def test_engine_killed_before_the_first_byte_costs_nothing_and_later_what_was_received(
    report: Report, point: str, kind: Kind
) -> None:
    for kill in the_deaths(report, point, kind):
        request_id = kill.request_id.rpartition("-")[0]
        if not request_id:
            continue  # of whole answers in the making the engine does not say which one it was at
        row = report.facts.rows[request_id]
        if kind == "whole" or point == "engine_before_first_byte":
            assert (row.state, row.outcome) == ("voided", "upstream_failed")
            assert charge(row) == (0, Usage())
        else:
            assert (row.state, row.outcome, row.source) == ("settled", "upstream_failed", "engine")
            assert row.usage.completion > 0


@pytest.mark.parametrize("point", WORKER_POINTS)
def test_worker_is_killed_in_the_middle_of_recovery(report: Report, point: str) -> None:
    kill = next(kill for kill in report.deaths if kill.point == point)
    row = report.facts.rows.get(kill.request_id)
    assert row is None or row.state in ("settled", "recovered", "voided")  # None: a hold that never got a row
    assert kill.request_id not in report.facts.holds


@pytest.mark.parametrize(("point", "store"), STORE_JOBS)
def test_store_killed_at_a_point_under_a_gateway_that_lives_costs_no_token(
    report: Report, point: str, store: str
) -> None:
    found = [kill for kill in report.deaths if (kill.point, kill.victim) == (point, store)]
    assert found, f"{store} did not die at {point}: {report.missed}"
    for kill in found:
        row = report.facts.rows.get(kill.request_id)
        if was_delivered(report, kill.request_id):
            assert row is not None and row.state == "settled"
            assert row.usage == report.facts.records[f"{row.request_id}-{row.attempt}"]
        else:
            assert charge(row) == (0, Usage())


def test_every_point_was_reached_and_recovery_ended_in_time(report: Report) -> None:
    assert report.missed == []
    assert report.quiet_s is not None
    victims = {kill.victim for kill in report.deaths if not kill.point}
    assert victims == {"gateway", "worker", "engine", "postgresql", "valkey"}


def test_every_delivered_request_has_exactly_one_settled_row(report: Report) -> None:
    assert report.findings.lost == []
    assert sum(call.delivered for call in report.facts.seen) > 200


def test_nothing_is_booked_twice_though_settlements_are_delivered_twice(report: Report) -> None:
    assert report.duplicates > 100
    assert report.findings.doubled == []


def test_clients_left_streams_and_whole_answers_and_pay_what_the_engine_recorded(report: Report) -> None:
    left = [call for call in report.facts.seen if call.left]
    assert any(call.stream for call in left) and any(not call.stream for call in left)
    gone = [row for row in report.facts.rows.values() if row.outcome == "client_gone" and row.state == "settled"]
    assert sum(row.source == "witness" for row in gone) > 0


def test_valkey_that_forgot_everything_counts_what_the_journal_counts(report: Report) -> None:
    assert report.forgot > 3
    assert len(report.facts.counters) >= len(TENANTS)  # and `findings.mismatched` compares each of them


def test_counts_are_the_engines_own_where_it_has_a_record(report: Report) -> None:
    assert report.findings.mismatched == []
    recovered = [row for row in report.facts.rows.values() if row.state == "recovered"]
    assert sum(row.source == "witness" for row in recovered) > 10


def test_checkpoints_count_only_where_both_witnesses_died(report: Report) -> None:
    by_checkpoint = [row for row in report.facts.rows.values() if row.source == "checkpoint"]
    assert by_checkpoint
    assert report.findings.uncertain_tokens == sum(row.usage.total for row in by_checkpoint) > 0


def test_a_request_killed_before_its_first_byte_is_charged_to_nobody(report: Report) -> None:
    assert report.findings.charged_undelivered == []
    certain = {kill.request_id for kill in the_deaths(report, "after_mark_before_write", "whole")}
    assert certain <= report.findings.ambiguous


def test_no_hold_stays_and_no_balance_is_negative(report: Report) -> None:
    assert report.findings.holds_left == []
    assert report.findings.negative_balances == []


def test_with_nobody_killed_every_call_is_answered_and_booked(report: Report) -> None:
    assert {(call.status, call.complete, call.error) for call in report.control_seen} == {(200, True, "")}
    assert not any(report.control.wrong.values())
    assert report.control.uncertain_tokens == 0
    assert report.control.ambiguous == set()


def test_everything_listens_on_loopback_only(report: Report) -> None:
    assert report.listening == {"127.0.0.1"}


def test_products_own_reconciliation_finds_nothing(report: Report) -> None:
    books = report.books
    assert books.findings == ()
    assert books.witness.total == books.tenants.total + books.platform.total
    assert min(books.tenants.total, books.platform.total) > 0
