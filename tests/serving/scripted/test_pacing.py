"""Speed, slots, and what becomes of a generation whose client leaves."""

import asyncio
import time

import httpx
import pytest

from serving.scripted.model import Slots
from tests.serving.scripted.asking import USAGE, chat, chat_body, ended, new_id, witness
from tests.serving.scripted.sse import chunks


async def read_tokens(client: httpx.AsyncClient, model: str, attempt_id: str, tokens: int) -> int:
    """Reads a stream until ``tokens`` chunks came, then leaves; how many usage says by then."""
    headers = {"x-request-id": attempt_id}
    got = b""
    async with client.stream("POST", "/v1/chat/completions", json=chat_body(model, **USAGE), headers=headers) as answer:
        async for part in answer.aiter_bytes():
            got += part
            if got.count(b"\n\n") >= 1 + tokens:
                break
    return got.count(b"\n\n") - 1


@pytest.mark.parametrize("stream", [True, False])
async def test_tokens_come_at_the_scenarios_speed(client: httpx.AsyncClient, stream: bool) -> None:
    start = time.monotonic()
    answer = await chat(client, "paced", max_tokens=26, **(USAGE if stream else {}))
    taken = time.monotonic() - start
    assert answer.status_code == 200
    assert 0.55 <= taken < 3.0  # 0.05 s to the first token, then 25 more at 50 per second


async def test_choices_advance_side_by_side(client: httpx.AsyncClient) -> None:
    items = chunks((await chat(client, "paced", max_tokens=10, n=3, **USAGE)).content)
    order = [item["choices"][0]["index"] for item in items[:-1]]
    assert order == [0, 1, 2] * 11


@pytest.mark.parametrize("tokens", [1, 7])
async def test_a_client_that_leaves_stops_generation_at_once(client: httpx.AsyncClient, tokens: int) -> None:
    attempt_id = new_id()
    seen = await read_tokens(client, "paced", attempt_id, tokens)
    found = await ended(client, attempt_id)
    assert found["state"] == "aborted"
    assert seen <= found["completion_tokens"] <= seen + 50
    await asyncio.sleep(0.2)
    assert await witness(client, attempt_id) == found


async def test_a_client_that_leaves_an_answer_that_does_not_stream_stops_it_too(client: httpx.AsyncClient) -> None:
    attempt_id = new_id()
    with pytest.raises(httpx.ReadTimeout):
        await client.post(
            "/v1/chat/completions", json=chat_body("paced"), headers={"x-request-id": attempt_id}, timeout=0.45
        )
    found = await ended(client, attempt_id)
    assert found["state"] == "aborted"
    assert 1 <= found["completion_tokens"] <= 70  # 20 on an idle machine: (0.45 - 0.05) s at 50 per second


async def test_a_running_attempt_shows_what_it_has_generated_so_far(client: httpx.AsyncClient) -> None:
    attempt_id = new_id()
    task = asyncio.create_task(chat(client, "paced", attempt_id, max_tokens=100, **USAGE))
    seen = []
    while not task.done():
        seen.append(await witness(client, attempt_id))
        await asyncio.sleep(0.1)
    running = [found for found in seen if found["state"] == "running"]
    assert all((found["ended_at"], found["finish_reason"]) == (None, None) for found in running)
    counts = [found["completion_tokens"] for found in running]
    assert counts == sorted(counts)
    assert len(set(counts)) > 2
    assert (await witness(client, attempt_id))["completion_tokens"] == 100


async def test_requests_wait_for_slots_in_the_order_they_came() -> None:
    slots, order = Slots(2), []

    async def run(number: int) -> None:
        async with slots.hold(1):
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(run(number) for number in range(10)))
    assert order == list(range(10))


async def test_more_requests_than_slots_take_turns(client: httpx.AsyncClient) -> None:
    start = time.monotonic()
    await asyncio.gather(*(chat(client, "narrow", **USAGE) for _ in range(6)))
    # Five tokens take 80 ms; three rounds of two cannot be shorter than 240 ms.
    assert time.monotonic() - start > 0.24


async def test_a_choice_takes_a_slot_and_too_many_choices_run_alone(client: httpx.AsyncClient) -> None:
    start = time.monotonic()
    answers = await asyncio.gather(*(chat(client, "narrow", n=3, **USAGE) for _ in range(3)))
    assert all(answer.status_code == 200 for answer in answers)
    assert time.monotonic() - start > 0.24


async def test_leaving_the_queue_takes_no_slot(client: httpx.AsyncClient) -> None:
    running = [asyncio.create_task(chat(client, "narrow", max_tokens=100, ignore_eos=True, **USAGE)) for _ in range(2)]
    while 'vllm:num_requests_running{model_name="narrow"} 2' not in (await client.get("/metrics")).text:
        assert not any(task.done() for task in running)
    attempt_id = new_id()
    with pytest.raises(httpx.ReadTimeout):
        headers = {"x-request-id": attempt_id}
        await client.post("/v1/chat/completions", json=chat_body("narrow"), headers=headers, timeout=0.3)
    found = await ended(client, attempt_id)
    assert (found["state"], found["completion_tokens"]) == ("aborted", 0)
    await asyncio.gather(*running)
    metrics = (await client.get("/metrics")).text
    assert 'vllm:num_requests_running{model_name="narrow"} 0' in metrics
    assert 'vllm:num_requests_waiting{model_name="narrow"} 0' in metrics


async def test_one_hundred_streams_at_once_each_get_their_own_answer(client: httpx.AsyncClient) -> None:
    ids = [new_id() for _ in range(100)]
    sizes = [10 + number % 7 for number in range(100)]
    answers = await asyncio.gather(
        *(chat(client, "paced", i, max_tokens=size, **USAGE) for i, size in zip(ids, sizes, strict=True))
    )
    for answer, attempt_id, size in zip(answers, ids, sizes, strict=True):
        items = chunks(answer.content)
        assert {item["id"] for item in items} == {f"chatcmpl-{attempt_id}"}
        assert items[-1]["usage"]["completion_tokens"] == size


async def test_everybody_leaving_at_once_leaves_every_slot_free() -> None:
    slots = Slots(2)

    async def hold() -> None:
        async with slots.hold(1):
            await asyncio.sleep(60)

    tasks = [asyncio.create_task(hold()) for _ in range(20)]
    await asyncio.sleep(0.01)
    assert (slots.busy, slots.waiting) == (2, 18)
    for task in tasks:
        task.cancel()
    ended_how = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in ended_how} == {asyncio.CancelledError}
    assert (slots.busy, slots.waiting) == (0, 0)


async def test_a_slot_given_to_someone_who_is_leaving_comes_back() -> None:
    slots = Slots(1)
    entered = asyncio.Event()

    async def hold() -> None:
        async with slots.hold(1):
            entered.set()

    async with slots.hold(1):
        leaving = asyncio.create_task(hold())
        await asyncio.sleep(0)
    # Its turn has just come, but it has not run yet.
    assert (slots.busy, slots.waiting) == (1, 0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    assert not entered.is_set()
    assert slots.busy == 0
