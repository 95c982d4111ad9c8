"""vLLM's own record against the book: under Ray Serve, through the gateway, token for token, and after a death.

The last test kills the engine of the session's stack and does not wait for its return: it has to stay the last one.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from ipaddress import IPv6Address, ip_address
from typing import Any

import openai
import psutil
import pytest
import pytest_asyncio

from billing.types import Usage
from gateway.up.leftovers import INSTANCE_VARIABLE
from gateway.upstreams.client import Timeouts, UpstreamClient
from gateway.upstreams.witness import EngineRecord, Witness
from tests.e2e.stack import Stack, until
from tests.vllm.engine import VllmEngine

pytestmark = pytest.mark.vllm

QUESTION: Any = [{"role": "user", "content": "Tell me about the sea."}]
ENDLESS: Any = {"ignore_eos": True}
COUNTS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
REPLICA = "LLMServer"


@pytest_asyncio.fixture
async def sdk(vllm_stack: Stack) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=vllm_stack.base_url, api_key=vllm_stack.key, max_retries=0, timeout=120
    ) as client:
        yield client


async def every_record(stack: Stack, model: str) -> dict[str, EngineRecord]:
    """What the worker can read, the way it reads it: all files, page by page, with the token of the data folder."""
    url = await stack.witness_url(model)
    client = UpstreamClient(Timeouts())
    witness = Witness(client, stack.data_dir / "secrets" / "witness.token")
    found: dict[str, EngineRecord] = {}
    try:
        for file in await witness.files(url) or []:
            at, more = 0, True
            while more:
                page = await witness.page(url, file.file, at, 3)
                assert page is not None
                at, more = page.next, page.more
                found |= {record.attempt_id: record for record in page.records}
    finally:
        await client.close()
    return found


async def leave(sdk: openai.AsyncOpenAI, model: str, chunks: int, **fields: Any) -> str:
    """Reads some chunks of a long answer and goes; the request's id."""
    stream = await sdk.chat.completions.create(
        model=model, messages=QUESTION, max_tokens=900, stream=True, extra_body=ENDLESS, **fields
    )
    request_id = ""
    async for chunk in stream:
        request_id = chunk.id.removeprefix("chatcmpl-")
        chunks -= 1
        if not chunks:
            break
    await stream.close()
    return request_id


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_is_recorded_as_it_is_booked(
    vllm_stack: Stack, vllm_engine: VllmEngine, sdk: openai.AsyncOpenAI, streamed: bool
) -> None:
    model = vllm_engine.model
    if streamed:
        stream = await sdk.chat.completions.create(model=model, messages=QUESTION, max_tokens=12, stream=True)
        answer_id = [chunk.id async for chunk in stream][-1]
    else:
        answer_id = (await sdk.chat.completions.create(model=model, messages=QUESTION, max_tokens=12)).id
    row = await vllm_stack.row(answer_id.removeprefix("chatcmpl-"))
    witness = await vllm_stack.witness(model, f"{row['request_id']}-{row['attempt']}")
    assert {name: witness[name] for name in COUNTS} == {name: row[name] for name in COUNTS}
    assert (witness["state"], witness["model"], row["usage_source"]) == ("finished", model, "engine")


@pytest.mark.parametrize("n", [1, 3])
async def test_a_client_that_leaves_is_booked_by_the_engines_record(
    vllm_stack: Stack, vllm_engine: VllmEngine, sdk: openai.AsyncOpenAI, n: int
) -> None:
    request_id = await leave(sdk, vllm_engine.model, 3 * n + 6, n=n)
    row = await vllm_stack.row(request_id, within_s=8)
    witness = await vllm_stack.witness(vllm_engine.model, f"{request_id}-{row['attempt']}")
    assert (row["outcome"], row["usage_source"]) == ("client_gone", "witness")
    assert (witness["state"], witness["finish_reason"]) == ("aborted", "abort")
    assert {name: witness[name] for name in COUNTS} == {name: row[name] for name in COUNTS}
    assert 2 * n <= row["completion_tokens"] < 900


async def test_what_the_engine_recorded_is_what_was_booked_and_the_rest_is_nobodys(
    vllm_stack: Stack, vllm_engine: VllmEngine, sdk: openai.AsyncOpenAI
) -> None:
    """Every row of this stack has its record with the same counts; what else was recorded is no tenant's."""
    since = datetime.fromtimestamp(psutil.Process(vllm_stack.process.pid).create_time(), UTC)
    texts = [
        sdk.completions.create(model=vllm_engine.model, prompt=["One, two,", "Red and"], max_tokens=5, n=2)
        for _ in range(4)
    ]
    gone = [leave(sdk, vllm_engine.model, 4 + number, n=1 + number % 3) for number in range(6)]
    await asyncio.gather(*texts, *gone)

    async def booked() -> dict[str, dict[str, Any]] | None:
        rows = await vllm_stack.fetch(
            "SELECT * FROM journal WHERE attempt > 0 AND model = $1 AND opened_at > $2", vllm_engine.model, since
        )
        return None if any(row["settled_at"] is None for row in rows) else {
            f"{row['request_id']}-{row['attempt']}": row for row in rows
        }  # fmt: skip

    rows = await until(booked, 8.0, "a row stays open")
    records = await every_record(vllm_stack, vllm_engine.model)
    delivered = {attempt: row for attempt, row in rows.items() if row["usage_source"] != "none"}
    assert len(delivered) >= 10
    for attempt, row in delivered.items():
        usage = records[attempt].usage
        assert (usage.prompt, usage.completion, usage.image) == (row["prompt_tokens"], row["completion_tokens"], 0)
    remainder = [record for attempt, record in records.items() if attempt not in delivered]
    total = sum(record.usage.total for record in records.values())
    on_book = sum(row["prompt_tokens"] + row["completion_tokens"] for row in delivered.values())
    assert total == on_book + sum(record.usage.total for record in remainder)
    assert [r.attempt_id for r in remainder if r.attempt_id.startswith("ready-check-")]


async def test_everything_listens_on_loopback_only(vllm_stack: Stack) -> None:
    ours = {process.pid for process in of_stack(vllm_stack)}
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for connection in psutil.net_connections(kind="inet")
        if connection.pid in ours and connection.laddr and connection.status == psutil.CONN_LISTEN
    }
    port = int((await vllm_stack.witness_url(str(vllm_stack.up["model"]))).split(":")[2].removesuffix("/witness"))
    assert ("127.0.0.1", port) in listening
    assert all(loopback(address) for address, _ in listening), listening


async def test_the_engines_death_takes_no_record_with_it(
    vllm_stack: Stack, vllm_engine: VllmEngine, sdk: openai.AsyncOpenAI
) -> None:
    before = await every_record(vllm_stack, vllm_engine.model)
    last = await sdk.chat.completions.create(model=vllm_engine.model, messages=QUESTION, max_tokens=3)
    stream = await sdk.chat.completions.create(
        model=vllm_engine.model, messages=QUESTION, max_tokens=900, stream=True, extra_body=ENDLESS
    )
    cut = ""
    with pytest.raises(openai.APIError):
        async for chunk in stream:
            if not cut:
                # the process that writes the records, at the moment of its work
                for process in of_stack(vllm_stack):
                    if REPLICA in process.name() or process.name().startswith("VLLM"):
                        process.send_signal(signal.SIGKILL)
            cut = chunk.id.removeprefix("chatcmpl-")
    row = await vllm_stack.row(cut, within_s=8)
    after = await every_record(vllm_stack, vllm_engine.model)
    finished = after[f"{last.id.removeprefix('chatcmpl-')}-1"]
    assert last.usage is not None
    assert finished.usage == Usage(last.usage.prompt_tokens, 0, last.usage.completion_tokens)
    assert {attempt: after[attempt] for attempt in before} == before
    # What was under way died unrecorded: the book has the last count that came, and says whose it is.
    assert f"{cut}-{row['attempt']}" not in after
    assert (row["outcome"], row["usage_source"]) == ("upstream_failed", "engine")
    assert row["completion_tokens"] > 0


def of_stack(stack: Stack) -> list[psutil.Process]:
    """All processes of the stack, by the id that every child of `sekisho up` carries."""
    instance = stack.environment[INSTANCE_VARIABLE]
    return [
        process
        for process in psutil.process_iter(["environ"])
        if (process.info["environ"] or {}).get(INSTANCE_VARIABLE) == instance
    ]


def loopback(address: str) -> bool:
    """Also `::ffff:127.0.0.1`, which is how an IPv6 socket of Ray shows that address."""
    found = ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return (mapped or found).is_loopback
