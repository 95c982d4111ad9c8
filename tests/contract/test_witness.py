"""The engine's own record: what the answer said, what a client that left had caused, and who may read it."""

import asyncio
import time
from collections import defaultdict
from typing import Any

import httpx
import msgspec
import pytest

from tests.contract.asking import USAGE, chat_body, completion_body, new_id, post
from tests.contract.conftest import Upstream

RECORDED_S_MAX = 2.0
FIELDS = {
    "attempt_id", "model", "state", "prompt_tokens", "cached_tokens", "image_tokens", "audio_tokens",
    "completion_tokens", "reasoning_tokens", "finish_reason", "started_at", "ended_at",
}  # fmt: skip


async def recorded(witness: httpx.AsyncClient, attempt_id: str) -> dict[str, Any]:
    """The record of an attempt that has ended or is about to."""
    deadline = time.monotonic() + RECORDED_S_MAX
    while True:
        found: dict[str, Any] = (await witness.get(f"/{attempt_id}")).json()
        if found["state"] in ("finished", "aborted"):
            return found
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.01)


async def leave_after(client: httpx.AsyncClient, body: dict[str, Any], attempt_id: str, events: int) -> dict[int, Any]:
    """Reads `events` events of a stream and closes it; the last usage seen per choice."""
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    seen: dict[int, Any] = {}
    async with client.stream("POST", path, json=body | USAGE, headers={"x-request-id": attempt_id}) as response:
        assert response.status_code == 200
        count = 0
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                chunk = msgspec.json.decode(line[6:])
                seen[chunk["choices"][0]["index"]] = chunk["usage"]
                count += 1
            if count == events:
                break
    return seen


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("make", "fields"),
    [
        (chat_body, {}), (chat_body, {"n": 3, "temperature": 0.9, "max_tokens": 7}), (completion_body, {}),
        (completion_body, {"prompt": ["One, two,", "The sea is very deep and", "Red and"], "max_tokens": 1}),
        (completion_body, {"prompt": ["One, two,", "Red and"], "n": 2, "temperature": 0.9}),
    ],
    ids=["chat", "three choices", "completion", "three prompts", "two prompts, two choices"],
)  # fmt: skip
async def test_the_record_is_there_at_the_end_of_the_answer_and_says_the_same(
    client: httpx.AsyncClient, witness: httpx.AsyncClient, upstream: Upstream, make: Any, fields: Any, streamed: bool
) -> None:
    attempt_id = new_id()
    started = time.time()
    response = await post(client, make(upstream, **fields) | (USAGE if streamed else {}), attempt_id)
    found = (await witness.get(f"/{attempt_id}")).json()  # at once: the record comes before the end of the answer
    usage = (
        msgspec.json.decode(response.text.split("data: ")[-2].strip())["usage"]
        if streamed
        else response.json()["usage"]
    )
    assert set(found) == FIELDS
    assert (found["attempt_id"], found["model"], found["state"]) == (attempt_id, upstream.model, "finished")
    assert (found["prompt_tokens"], found["completion_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert found["finish_reason"] in ("stop", "length")
    assert started - 0.1 <= found["started_at"] <= found["ended_at"] <= time.time()


async def test_the_cached_part_of_a_prompt_is_what_the_answer_says(
    client: httpx.AsyncClient, witness: httpx.AsyncClient, upstream: Upstream
) -> None:
    body = chat_body(upstream, "many words that are the same again, " * 80, max_tokens=2)
    cached = []
    for _ in range(2):
        attempt_id = new_id()
        usage = (await post(client, body, attempt_id)).json()["usage"]
        found = (await witness.get(f"/{attempt_id}")).json()
        assert found["cached_tokens"] == usage["prompt_tokens_details"]["cached_tokens"]
        cached.append(found["cached_tokens"])
    assert (cached[1] > 0) == (upstream.kind == "vllm")  # the scripted engine finds cached what its scenario says


@pytest.mark.parametrize(
    ("make", "fields", "prompts"),
    [
        (chat_body, {}, 1), (chat_body, {"n": 3}, 1),
        (completion_body, {"prompt": ["One, two,", "Red and"], "n": 2}, 2),
    ],
    ids=["stream", "three choices", "two prompts, two choices"],
)  # fmt: skip
async def test_a_client_that_leaves_is_recorded_with_all_that_was_generated_for_it(
    client: httpx.AsyncClient, witness: httpx.AsyncClient, upstream: Upstream, make: Any, fields: Any, prompts: int
) -> None:
    attempt_id = new_id()
    body = make(upstream, **fields, model=upstream.slow_model, max_tokens=1_000, temperature=0.9, ignore_eos=True)
    seen = await leave_after(client, body, attempt_id, events=20)
    found = await recorded(witness, attempt_id)
    assert (found["state"], found["finish_reason"]) == ("aborted", "abort")
    n = fields.get("n", 1)
    by_prompt: dict[int, int] = defaultdict(int)
    for index, usage in seen.items():
        by_prompt[index // n] = usage["prompt_tokens"]
    assert len(by_prompt) == prompts
    assert found["prompt_tokens"] == sum(by_prompt.values())
    received = sum(usage["completion_tokens"] for usage in seen.values())
    assert 0 < received <= found["completion_tokens"] < 300


async def test_records_are_listed_page_by_page_in_the_order_of_their_ends(
    client: httpx.AsyncClient, witness: httpx.AsyncClient, upstream: Upstream
) -> None:
    before = {item["file"]: item["size"] for item in (await witness.get(upstream.witness_url)).json()["files"]}
    ids = [new_id() for _ in range(5)]
    for attempt_id in ids:
        await post(client, chat_body(upstream, max_tokens=1), attempt_id)
    (grown,) = [
        i for i in (await witness.get(upstream.witness_url)).json()["files"] if i["size"] > before.get(i["file"], 0)
    ]
    at, listed, pages = before.get(grown["file"], 0), [], 0
    while at < grown["size"]:
        page = (await witness.get(upstream.witness_url, params={"file": grown["file"], "after": at, "limit": 2})).json()
        assert (page["file"], page["more"]) == (grown["file"], page["next"] < grown["size"])
        assert 0 < len(page["records"]) <= 2
        listed += page["records"]
        at = page["next"]
        pages += 1
    assert (at, pages) == (grown["size"], 3)
    assert [record["attempt_id"] for record in listed] == ids
    assert listed == [(await witness.get(f"/{attempt_id}")).json() for attempt_id in ids]


async def test_what_was_never_served_is_unknown(witness: httpx.AsyncClient) -> None:
    attempt_id = new_id()
    answer = await witness.get(f"/{attempt_id}")
    assert (answer.status_code, answer.json()) == (404, {"attempt_id": attempt_id, "state": "unknown"})


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic dXNlcg=="])
async def test_without_the_token_nothing_is_told(upstream: Upstream, header: str | None) -> None:
    headers = {} if header is None else {"authorization": header}
    async with httpx.AsyncClient(headers=headers, trust_env=False) as stranger:
        for url in (upstream.witness_url, f"{upstream.witness_url}/{new_id()}", f"{upstream.witness_url}?file=x"):
            answer = await stranger.get(url)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_token")
            assert "cure" in answer.json()["error"]
