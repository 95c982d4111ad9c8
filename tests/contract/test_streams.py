"""Streams: framing, many at once without mixing, and a client that leaves."""

import asyncio
import time
from typing import Any

import httpx
import pytest

from tests.contract.asking import USAGE, answer, chat_body, engine_running_requests, new_id, post
from tests.contract.conftest import Upstream
from tests.serving.scripted.sse import chunks, events

WAITS_S_MIN = 2.0
FREED_S_MAX = 5.0
"""The abort takes at most 2 s, the short answer up to 1 s on two busy cores; without an abort it would be a minute."""
LONG_TOKENS = 1000
LEAVING = 20
FILLED_S = 1.5
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


async def first_token_s(client: httpx.AsyncClient, upstream: Upstream, at_most_s: float) -> float:
    """Seconds until a short request is answered. Raises httpx.ReadTimeout beyond ``at_most_s``."""
    start = time.monotonic()
    body = chat_body(upstream, max_tokens=1, model=upstream.slow_model)
    (await client.post("/v1/chat/completions", json=body, timeout=at_most_s)).raise_for_status()
    return time.monotonic() - start


async def occupy(client: httpx.AsyncClient, body: dict[str, Any], attempt_id: str) -> None:
    """One client that reads whatever comes, until it is cancelled: then its connection closes."""
    headers = {"x-request-id": attempt_id}
    async with client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
        async for _ in response.aiter_bytes():
            pass


@pytest.mark.parametrize(
    ("n", "streamed"), [(1, True), (3, True), (1, False)], ids=["stream", "three choices", "whole answer"]
)
async def test_clients_that_leave_free_the_engine_at_once(
    client: httpx.AsyncClient, witness: httpx.AsyncClient, upstream: Upstream, n: int, streamed: bool
) -> None:
    # Given more long answers under way than the engine has slots, so that a short request has to wait,
    body = chat_body(upstream, n=n, temperature=0.9, max_tokens=LONG_TOKENS, ignore_eos=True)
    body = body | {"model": upstream.slow_model} | (USAGE if streamed else {})
    ids = [new_id() for _ in range(LEAVING)]
    clients = [asyncio.create_task(occupy(client, body, attempt_id)) for attempt_id in ids]
    await asyncio.sleep(FILLED_S)
    with pytest.raises(httpx.ReadTimeout):
        await first_token_s(client, upstream, WAITS_S_MIN)
    # when all those clients leave,
    for task in clients:
        task.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    # then the next short request is answered at once: none of the long ones is generated to its end.
    assert await first_token_s(client, upstream, 60) < FREED_S_MAX
    assert await engine_running_requests(upstream.root) in (0, None)
    before = [(await witness.get(f"/{attempt_id}")).json() for attempt_id in ids]
    assert {item["state"] for item in before} == {"aborted"}
    assert max(item["completion_tokens"] for item in before) < n * LONG_TOKENS
    await asyncio.sleep(0.3)
    assert [(await witness.get(f"/{attempt_id}")).json() for attempt_id in ids] == before
