"""Asking engines for their records: the token that is shown, pages of any size, and answers that are none."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest_asyncio
from aiohttp import web

from billing.types import Usage
from gateway.settings import load
from gateway.upstreams.client import Timeouts, UpstreamClient
from gateway.upstreams.witness import EngineRecord, Page, Witness, WitnessFile

RECORD: dict[str, Any] = {
    "attempt_id": "r-1", "model": "m", "state": "finished", "prompt_tokens": 9, "cached_tokens": 4, "image_tokens": 5,
    "audio_tokens": 1, "completion_tokens": 3, "reasoning_tokens": 2, "finish_reason": "stop", "started_at": 1.5,
    "ended_at": 2.000001,
}  # fmt: skip
READ = EngineRecord("r-1", "m", "finished", Usage(9, 4, 3, 2, 5, 1), "stop", 1_500_000, 2_000_001)


@dataclass
class Engine:
    """What a witness answers, and what it was asked."""

    url: str = ""
    answer: Any = None
    status: int = 200
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append((request.path_qs, request.headers.get("authorization")))
        return web.json_response(self.answer, status=self.status)


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[Engine]:
    made = Engine()
    app = web.Application()
    app.router.add_get("/{path:.*}", made.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/witness"
    yield made
    await runner.cleanup()


@pytest_asyncio.fixture
async def client() -> AsyncIterator[UpstreamClient]:
    made = UpstreamClient(Timeouts())
    yield made
    await made.close()


async def test_the_first_line_of_the_token_file_is_shown_as_it_is_now(
    engine: Engine, client: UpstreamClient, tmp_path: Path
) -> None:
    token_file = tmp_path / "witness.token"
    witness = Witness(client, token_file)
    engine.answer = RECORD
    assert await witness.ask(engine.url, "r-1") == READ
    token_file.write_text("new\nold\n")
    await witness.ask(engine.url, "r-1")
    draft = tmp_path / "draft"
    draft.write_text("newest\nnew\n")
    draft.replace(token_file)
    await witness.ask(engine.url, "r-1")
    token_file.unlink()
    await witness.ask(engine.url, "r-1")
    assert [header for _, header in engine.asked] == [None, "Bearer new", "Bearer newest", None]


async def test_a_page_of_five_thousand_records_is_read_whole(engine: Engine, client: UpstreamClient) -> None:
    records = [RECORD | {"attempt_id": f"r-{number}"} for number in range(5_000)]
    engine.answer = {"file": "a b.jsonl", "next": 77, "more": True, "records": records}
    page = await Witness(client).page(engine.url, "a b.jsonl", 5, 5_000)
    assert page is not None
    assert (page.file, page.next, page.more, len(page.records)) == ("a b.jsonl", 77, True, 5_000)
    assert page.records[4_999].attempt_id == "r-4999"
    assert engine.asked == [("/witness?file=a+b.jsonl&after=5&limit=5000", None)]


async def test_files_are_listed(engine: Engine, client: UpstreamClient) -> None:
    engine.answer = {"files": [{"file": "a.jsonl", "size": 10}]}
    assert await Witness(client).files(engine.url) == [WitnessFile("a.jsonl", 10)]
    assert engine.asked == [("/witness", None)]


async def test_a_record_that_contradicts_itself_is_none(engine: Engine, client: UpstreamClient) -> None:
    broken = [
        {"cached_tokens": 10}, {"image_tokens": 9}, {"audio_tokens": -1}, {"reasoning_tokens": 4},
        {"cached_tokens": -1},
    ]  # fmt: skip
    for change in broken:
        engine.answer = RECORD | change
        assert await Witness(client).ask(engine.url, "r-1") is None
    engine.answer = {"file": "a", "next": 1, "more": False, "records": [RECORD | broken[0], RECORD]}
    assert await Witness(client).page(engine.url, "a", 0, 10) == Page("a", 1, False, [READ])


async def test_no_answer_and_no_sense_are_both_none(engine: Engine, client: UpstreamClient) -> None:
    witness = Witness(client)
    for engine.status, engine.answer in (
        (401, RECORD),
        (404, {"error": "nothing here"}),
        (404, RECORD),
        (200, {"state": "unknown"}),
        (500, {"state": "unknown"}),
        (200, []),
        (200, {"state": "odd"}),
    ):
        assert await witness.ask(engine.url, "r-1") is None
        assert await witness.files(engine.url) is None
        assert await witness.page(engine.url, "a", 0, 1) is None
    assert await witness.files("http://127.0.0.1:1/witness") is None


def test_the_token_file_lies_in_the_data_folder_unless_it_is_named(tmp_path: Path) -> None:
    stores = {"SEKISHO_DATABASE_URL": "postgresql://", "SEKISHO_VALKEY_URL": "unix://"}
    assert load(tmp_path, stores).witness_token_file == tmp_path / "secrets" / "witness.token"
    named = load(tmp_path, {**stores, "SEKISHO_WITNESS_TOKEN_FILE": "/run/secrets/witness"})
    assert named.witness_token_file == Path("/run/secrets/witness")


async def test_an_engine_that_has_no_such_record_says_so(engine: Engine, client: UpstreamClient) -> None:
    engine.status, engine.answer = 404, {"attempt_id": "r-1", "state": "unknown"}
    record = await Witness(client).ask(engine.url, "r-1")
    assert record is not None
    assert (record.state, record.usage) == ("unknown", Usage())
