"""Locust's mixed traffic, run short, and the proof that its check can fail: one doctored figure is one finding."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadtests.books import Entry, recorded
from loadtests.load.__main__ import judge
from loadtests.load.check import Account, Audit, Tokens, audit
from loadtests.load.figures import rows
from loadtests.load.mix import KINDS
from loadtests.load.plan import Sample
from loadtests.load.run import PARTNERS, Ran
from serving.witness.types import Witness
from tests.serving.scripted.process import REPOSITORY

RUN_S_MAX = 90.0
REPORT = "load-short"  # not `load`: a measurement that somebody took with care stays
TENANT, MODEL = "load-a", "scripted-small"
IDS = ("0198c3a0-0000-7000-8000-000000000001", "0198c3a0-0000-7000-8000-000000000002")
Books = tuple[list[Entry], list[Witness], list[Sample], dict[Account, Tokens]]


def test_mixed_traffic_passes_and_every_token_is_booked_as_the_engine_recorded_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "loadtests.load", "--seconds", "12", "--report", REPORT],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=RUN_S_MAX, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads((REPOSITORY / "reports" / f"{REPORT}.json").read_text(encoding="utf-8"))
    assert {"rows", "ratio_p99", "control", "versions", "machine", "commit"} <= set(report)
    assert (report["errors"], report["findings_total"], report["differing_tokens"]) == (0, 0, 0)
    assert report["recorded_tokens"] == report["booked_tokens"] > 0
    assert report["compared_requests"] >= sum(row["requests"] for row in report["totals"]) > 100
    assert {row["tenant"] for row in report["totals"]} == set(PARTNERS), "every tenant was served"
    asked = {(row["what"], row["kind"]) for row in report["rows"]}
    assert {(what, kind) for what in ("relay", "sekisho") for kind in KINDS} <= asked
    assert {("sekisho", kind) for kind in ("models", "usage", "refusal")} <= asked
    assert report["refusals_expected"] > 0
    assert 0 < report["ratio_p99"]["quick"] <= 5


def test_equal_books_have_no_finding(tmp_path: Path) -> None:
    assert _audited(_books(), tmp_path).findings == ()


def _one_token_more(books: Books) -> None:
    books[1][0] = msgspec.structs.replace(books[1][0], completion_tokens=41)


def _cached_unseen(books: Books) -> None:
    books[1][0] = msgspec.structs.replace(books[1][0], cached_tokens=4)


def _unbooked(books: Books) -> None:
    books[1].append(msgspec.structs.replace(books[1][0], attempt_id=f"{IDS[0][:-1]}9-1"))


def _unrecorded(books: Books) -> None:
    del books[1][1]


def _two_that_cancel_out(books: Books) -> None:
    for place, more in ((0, 5), (1, -5)):
        books[1][place] = msgspec.structs.replace(books[1][place], completion_tokens=40 + more)


def _another_tenants(books: Books) -> None:
    books[0][0] = replace(books[0][0], tenant_id="load-b")


def _never_settled(books: Books) -> None:
    books[0][0] = replace(books[0][0], state="streaming", outcome=None)


def _told_otherwise(books: Books) -> None:
    books[2][0] = msgspec.structs.replace(books[2][0], completion_tokens=39)


def _shown_otherwise(books: Books) -> None:
    books[3][TENANT, MODEL] = replace(books[3][TENANT, MODEL], prompt=21)


def _answer_without_row(books: Books) -> None:
    books[2].append(msgspec.structs.replace(books[2][0], request_id=f"{IDS[0][:-1]}9"))


@pytest.mark.parametrize(
    ("doctor", "sentence"),
    [
        (_one_token_more, "completion_tokens 41 recorded, 40 booked"),
        (_cached_unseen, "cached_tokens 4 recorded, 0 booked"),
        (_unbooked, "in no row of the journal"),
        (_unrecorded, "not in the engine's record"),
        (_two_that_cancel_out, "completion_tokens 45 recorded, 40 booked"),
        (_another_tenants, "booked to load-b"),
        (_never_settled, "never settled"),
        (_told_otherwise, "the client was told (10, 39) tokens"),
        (_shown_otherwise, "GET /v1/usage has Tokens(requests=2, prompt=21"),
        (_answer_without_row, "that the journal does not know"),
    ],
)
def test_doctored_books_are_found(doctor: Callable[[Books], None], sentence: str, tmp_path: Path) -> None:
    books = _books()
    doctor(books)
    found = _audited(books, tmp_path)
    assert any(sentence in finding for finding in found.findings), found.findings
    assert [verdict.name for verdict in judge(_ran(found), _ratios(1.0)) if not verdict.passed] == [
        "usage that differs from the engine's record"
    ]


def test_an_error_and_a_slow_gateway_each_miss_their_target(tmp_path: Path) -> None:
    audited = _audited(_books(), tmp_path)
    failed = _ran(audited, [Sample(target="sekisho", kind="whole", turn=2, took_ms=1.0, failure="HTTP 500")])
    assert [verdict.passed for verdict in judge(failed, _ratios(5.0))] == [False, True, True, True]
    assert [verdict.passed for verdict in judge(_ran(audited), _ratios(5.01))] == [True, True, False, False]
    crashed = Ran([], 4, audited, "Locust ended with 2")
    assert not judge(crashed, _ratios(1.0))[0].passed


def test_warm_turns_count_for_the_books_and_not_for_the_latencies() -> None:
    samples = [Sample(target="sekisho", kind="whole", turn=turn, took_ms=took) for turn, took in ((1, 900.0), (3, 4.0))]
    assert [(row.kind, row.requests, row.p99_ms) for row in rows(samples, 1.5, 4)] == [
        ("whole", 1, 4.0),
        ("quick", 1, 4.0),
    ]


def _ratios(all_of_them: float) -> dict[str, float]:
    return dict.fromkeys((*KINDS, "quick"), all_of_them)


def _ran(audited: Audit, samples: Sequence[Sample] = ()) -> Ran:
    return Ran(samples, 4, audited, "")


def _books() -> Books:
    """Two answers of one tenant that everybody counts alike, and a refusal that no engine saw."""
    counts = {"prompt_tokens": 10, "cached_tokens": 0, "completion_tokens": 40, "reasoning_tokens": 0}
    entries = [Entry(one, 1, TENANT, MODEL, "settled", "completed", **counts) for one in IDS]
    entries.append(Entry(f"{IDS[0][:-1]}3", 1, TENANT, MODEL, "voided", "refused_invalid", 0, 0, 0, 0))
    served = [
        Witness(f"{one}-1", MODEL, "finished", **counts, finish_reason="stop", started_at=1.0, ended_at=2.0)
        for one in IDS
    ]
    told = [
        Sample(
            target="sekisho", kind="whole", turn=2, took_ms=5.0, tenant_id=TENANT, model=MODEL, request_id=one,
            prompt_tokens=10, completion_tokens=40,
        )
        for one in IDS
    ]  # fmt: skip
    return entries, served, told, {(TENANT, MODEL): Tokens(2, 20, 80)}


def _audited(books: Books, folder: Path) -> Audit:
    """The comparison, with the engine's record read from a file as a run does it."""
    entries, served, told, shown = books
    path = folder / "record.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(witness) + b"\n" for witness in served))
    return audit(entries, recorded(path), told, shown)
