"""The record: one line per ended attempt, read again after any death of the process."""

import json
import os
import signal
from pathlib import Path

import httpx

from serving.scripted.record import Record
from tests.serving.scripted.process import engine


def test_an_ended_attempt_is_found_again_by_a_new_process_over_the_same_file(tmp_path: Path) -> None:
    first = Record(tmp_path / "served.jsonl", clock=lambda: 5.0)
    running = first.start("r-1", "m", prompt_tokens=7, cached_tokens=2)
    running.completion_tokens = 3
    first.finish(running, "stop")
    left = first.start("r-2", "m", 7, 0)
    second = Record(tmp_path / "served.jsonl")
    found = second.find("r-1")
    assert found is not None
    assert (found.state, found.prompt_tokens, found.cached_tokens, found.completion_tokens) == ("finished", 7, 2, 3)
    assert (found.started_at, found.ended_at, found.finish_reason) == (5.0, 5.0, "stop")
    assert second.find(left.attempt_id) is None


def test_an_attempt_ends_once(tmp_path: Path) -> None:
    record = Record(tmp_path / "served.jsonl")
    running = record.start("r-1", "m", 7, 0)
    record.finish(running, "stop")
    record.abort(running)
    found = record.find("r-1")
    assert found is not None
    assert found.state == "finished"
    assert len((tmp_path / "served.jsonl").read_text().splitlines()) == 1
    assert (record.finished, record.aborted) == (1, 0)


def test_a_torn_last_line_harms_neither_the_lines_before_nor_those_after(tmp_path: Path) -> None:
    path = tmp_path / "served.jsonl"
    record = Record(path)
    record.finish(record.start("r-1", "m", 1, 0), "stop")
    with path.open("ab") as file:
        file.write(b'{"attempt_id":"r-2","mod')
    again = Record(path)
    again.finish(again.start("r-3", "m", 1, 0), "stop")
    last = Record(path)
    assert [last.find(name) is not None for name in ("r-1", "r-2", "r-3")] == [True, False, True]


def test_attempts_that_left_memory_are_found_in_the_file(tmp_path: Path) -> None:
    record = Record(tmp_path / "served.jsonl", kept_max=2)
    for number in range(10):
        running = record.start(f"r-{number}", "m", number, 0)
        record.finish(running, "stop")
    found = [record.find(f"r-{number}") for number in range(10)]
    assert [witness.prompt_tokens for witness in found if witness is not None] == list(range(10))
    assert record.find("r-10") is None


def test_a_sigkill_loses_no_attempt_that_a_client_has_seen_end(tmp_path: Path) -> None:
    served = tmp_path / "served.jsonl"
    with engine("--record", str(served)) as running, httpx.Client(base_url=running.root) as client:
        body = {"model": "scripted-small", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
        for number in range(20):
            client.post("/v1/chat/completions", json=body, headers={"x-request-id": f"k-{number}"}).raise_for_status()
        os.kill(running.process.pid, signal.SIGKILL)
        running.process.wait(5)
    with engine("--record", str(served)) as running, httpx.Client(base_url=running.root) as client:
        found = [client.get(f"/witness/k-{number}").json() for number in range(20)]
    assert {(item["state"], item["completion_tokens"]) for item in found} == {("finished", 5)}
    assert set(found[0]) == set(json.loads(served.read_text().splitlines()[0]))
