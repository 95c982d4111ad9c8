"""Streams: framing, many at once without mixing, and a client that leaves."""

import asyncio

import httpx
import pytest

from tests.contract.asking import USAGE, answer, chat_body, idle_within, new_id, post, stream
from tests.contract.conftest import Upstream
from tests.serving.scripted.sse import chunks, events

ABORT_S_MAX = 2.0
LONG_TOKENS = 200
STREAMS = 12


async def test_events_are_data_lines_and_the_last_is_done(client: httpx.AsyncClient, upstream: Upstream) -> None:
    response = await post(client, chat_body(upstream) | USAGE)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert events(response.content)[-1] == "[DONE]"


async def test_streams_at_the_same_time_do_not_mix(client: httpx.AsyncClient, upstream: Upstream) -> None:
    # Each request differs in prompt length and in length of answer, so a chunk of another stream would show.
    bodies = [
        chat_body(upstream, "word " * (1 + 3 * number), max_tokens=3 + number, ignore_eos=True)
        for number in range(STREAMS)
    ]
    ids = [new_id() for _ in bodies]
    prompts = [(await answer(client, body | {"max_tokens": 1}))["usage"]["prompt_tokens"] for body in bodies]
    assert len(set(prompts)) > STREAMS // 2
    pairs = zip(bodies, ids, strict=True)
    answers = await asyncio.gather(*(post(client, body | USAGE, attempt_id) for body, attempt_id in pairs))
    for number, response in enumerate(answers):
        items = chunks(response.content)
        assert {item["id"] for item in items} == {f"chatcmpl-{ids[number]}"}
        assert {item["usage"]["prompt_tokens"] for item in items} == {prompts[number]}
        assert items[-1]["usage"]["completion_tokens"] == 3 + number


@pytest.mark.parametrize("n", [1, 3])
async def test_a_client_that_leaves_stops_the_engine(client: httpx.AsyncClient, upstream: Upstream, n: int) -> None:
    attempt_id = new_id()
    body = chat_body(upstream, n=n, temperature=0.9, max_tokens=LONG_TOKENS, ignore_eos=True) | USAGE
    body["model"] = upstream.slow_model
    async with client.stream(
        "POST", "/v1/chat/completions", json=body, headers={"x-request-id": attempt_id}
    ) as response:
        got = b""
        async for part in response.aiter_bytes():
            got += part
            if got.count(b"\n\n") >= 3 * n:
                break
    assert await idle_within(upstream.root, ABORT_S_MAX), "the engine went on generating"
    if upstream.kind == "scripted":
        found = (await client.get(f"/witness/{attempt_id}")).json()
        assert found["state"] == "aborted"
        assert found["completion_tokens"] < n * LONG_TOKENS
        await asyncio.sleep(0.5)
        assert (await client.get(f"/witness/{attempt_id}")).json() == found


async def test_the_engine_serves_on_after_clients_left(client: httpx.AsyncClient, upstream: Upstream) -> None:
    body = chat_body(upstream, max_tokens=LONG_TOKENS, ignore_eos=True, model=upstream.slow_model) | USAGE
    for _ in range(8):
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            await anext(response.aiter_bytes())
    assert (await stream(client, chat_body(upstream)))[-1]["usage"]["completion_tokens"] > 0
    assert await idle_within(upstream.root, ABORT_S_MAX)
