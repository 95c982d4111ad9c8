"""Usage: in every chunk, per choice and cumulative, and the closing sum equal to what was counted on the way."""

from collections import defaultdict
from typing import Any

import httpx
import pytest

from tests.contract.asking import answer, chat_body, completion_body, stream
from tests.contract.conftest import Upstream

PROMPTS = ["One, two,", "The sea is very deep and", "Red and"]


def checked(items: list[dict[str, Any]], choices: int) -> tuple[dict[int, int], dict[str, Any]]:
    """(highest completion tokens per choice, closing usage) of a stream, each chunk's usage being well-formed."""
    *before, closing = items
    assert closing["choices"] == []
    seen: dict[int, list[int]] = defaultdict(list)
    for item in before:
        usage = item["usage"]
        (choice,) = item["choices"]
        assert usage["prompt_tokens"] > 0
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        seen[choice["index"]].append(usage["completion_tokens"])
    assert set(seen) == set(range(choices))
    # Cumulative: each chunk brings at least one token more than the one before it (the opening chunk of a chat: none).
    assert all(counts == sorted(set(counts)) for counts in seen.values())
    return {index: counts[-1] for index, counts in seen.items()}, closing["usage"]


@pytest.mark.parametrize("make", [chat_body, completion_body])
async def test_usage_of_a_whole_answer_adds_up(client: httpx.AsyncClient, upstream: Upstream, make: Any) -> None:
    first = (await answer(client, make(upstream)))["usage"]
    again = (await answer(client, make(upstream)))["usage"]
    assert first["total_tokens"] == first["prompt_tokens"] + first["completion_tokens"]
    assert 0 < first["completion_tokens"] <= 16
    assert first["prompt_tokens"] == again["prompt_tokens"] > 0


async def test_a_longer_prompt_counts_more(client: httpx.AsyncClient, upstream: Upstream) -> None:
    counts = [
        (await answer(client, chat_body(upstream, "word " * size, max_tokens=1)))["usage"]["prompt_tokens"]
        for size in (1, 10, 100)
    ]
    assert counts == sorted(set(counts))


@pytest.mark.parametrize("make", [chat_body, completion_body])
async def test_every_chunk_has_usage_and_the_last_is_the_sum(
    client: httpx.AsyncClient, upstream: Upstream, make: Any
) -> None:
    highest, closing = checked(await stream(client, make(upstream)), choices=1)
    assert closing["completion_tokens"] == highest[0]
    assert closing["prompt_tokens"] == (await answer(client, make(upstream)))["usage"]["prompt_tokens"]


@pytest.mark.parametrize("make", [chat_body, completion_body])
async def test_with_several_choices_usage_is_per_choice_and_the_sum_comes_last(
    client: httpx.AsyncClient, upstream: Upstream, make: Any
) -> None:
    body = make(upstream, n=3, temperature=0.9, max_tokens=9, ignore_eos=True)
    highest, closing = checked(await stream(client, body), choices=3)
    assert highest == {0: 9, 1: 9, 2: 9}
    assert closing["completion_tokens"] == sum(highest.values())
    assert closing["total_tokens"] == closing["prompt_tokens"] + closing["completion_tokens"]
    assert (await answer(client, body))["usage"]["completion_tokens"] == 27


async def test_with_list_prompts_usage_is_per_prompt_and_the_sum_comes_last(
    client: httpx.AsyncClient, upstream: Upstream
) -> None:
    alone = [
        (await answer(client, completion_body(upstream, prompt, max_tokens=1)))["usage"]["prompt_tokens"]
        for prompt in PROMPTS
    ]
    items = await stream(client, completion_body(upstream, PROMPTS, max_tokens=5, ignore_eos=True))
    highest, closing = checked(items, choices=3)
    per_prompt = {item["choices"][0]["index"]: item["usage"]["prompt_tokens"] for item in items[:-1]}
    assert [per_prompt[index] for index in range(3)] == alone
    assert closing["prompt_tokens"] == sum(alone)
    assert closing["completion_tokens"] == sum(highest.values()) == 15
