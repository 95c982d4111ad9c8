"""The official SDK through the gateway against real vLLM: answers, exact usage, only documented fields, aborts."""

import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import psutil
import pytest
import pytest_asyncio

from gateway.up.leftovers import INSTANCE_VARIABLE
from tests.e2e.sdk import extras
from tests.e2e.stack import Stack
from tests.vllm.engine import VllmEngine

pytestmark = pytest.mark.vllm

QUESTION: Any = [{"role": "user", "content": "What is the capital of Japan? Answer in one short sentence."}]
ABORT_S_MAX = 2.0
IDLE_CORES_MAX = 0.15


@pytest_asyncio.fixture
async def sdk(vllm_stack: Stack) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=vllm_stack.base_url, api_key=vllm_stack.key, max_retries=0, timeout=120
    ) as client:
        yield client


async def asked_directly(engine: VllmEngine, **fields: Any) -> dict[str, Any]:
    """The same question to vLLM itself."""
    body = {"model": engine.model, "messages": QUESTION, "temperature": 0, **fields}
    async with httpx.AsyncClient(trust_env=False, timeout=120) as client:
        answer = await client.post(f"{engine.root}/v1/chat/completions", json=body)
    found: dict[str, Any] = answer.json()
    return found


async def test_answer_and_usage_are_vllms_own(
    vllm_stack: Stack, vllm_engine: VllmEngine, sdk: openai.AsyncOpenAI
) -> None:
    direct = await asked_directly(vllm_engine, max_tokens=24)
    answer = await sdk.chat.completions.create(model=vllm_engine.model, messages=QUESTION, temperature=0, max_tokens=24)
    assert answer.choices[0].message.content == direct["choices"][0]["message"]["content"]
    assert "Tokyo" in (answer.choices[0].message.content or "")
    assert answer.usage is not None
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert getattr(answer.usage, name) == direct["usage"][name]
    assert list(extras(answer)) == []
    request_id = answer.id.removeprefix("chatcmpl-")
    assert uuid.UUID(request_id).version == 7
    row = await vllm_stack.row(request_id)
    assert (row["state"], row["outcome"], row["usage_source"]) == ("settled", "completed", "engine")
    assert (row["prompt_tokens"], row["completion_tokens"]) == (
        direct["usage"]["prompt_tokens"], direct["usage"]["completion_tokens"],
    )  # fmt: skip
    assert row["micro_yen"] > 0


async def test_stream_without_usage_has_none_and_books_what_vllm_counts(
    vllm_stack: Stack, vllm_engine: VllmEngine, sdk: openai.AsyncOpenAI
) -> None:
    direct = await asked_directly(vllm_engine, max_tokens=24)
    stream = await sdk.chat.completions.create(
        model=vllm_engine.model, messages=QUESTION, temperature=0, max_tokens=24, stream=True
    )
    chunks = [chunk async for chunk in stream]
    assert all(chunk.choices and chunk.usage is None and "usage" not in chunk.model_fields_set for chunk in chunks)
    assert [path for chunk in chunks for path in extras(chunk)] == []
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == direct["choices"][0]["message"]["content"]
    row = await vllm_stack.row(chunks[0].id.removeprefix("chatcmpl-"))
    assert (row["state"], row["prompt_tokens"], row["completion_tokens"]) == (
        "settled", direct["usage"]["prompt_tokens"], direct["usage"]["completion_tokens"],
    )  # fmt: skip


async def test_stream_with_usage_and_three_choices_ends_with_the_sum(
    vllm_stack: Stack, vllm_engine: VllmEngine, sdk: openai.AsyncOpenAI
) -> None:
    stream = await sdk.chat.completions.create(
        model=vllm_engine.model, messages=QUESTION, max_tokens=8, n=3, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = [chunk async for chunk in stream]
    assert all(chunk.usage is None for chunk in chunks[:-1])
    final = chunks[-1]
    assert final.choices == []
    assert final.usage is not None
    row = await vllm_stack.row(final.id.removeprefix("chatcmpl-"))
    assert (final.usage.prompt_tokens, final.usage.completion_tokens) == (
        row["prompt_tokens"],
        row["completion_tokens"],
    )
    assert 3 < row["completion_tokens"] <= 24


async def test_completions_list_prompts_logprobs_and_json_schema(
    vllm_engine: VllmEngine, sdk: openai.AsyncOpenAI
) -> None:
    text = await sdk.completions.create(
        model=vllm_engine.model, prompt=["One, two,", "A, B,"], max_tokens=4, logprobs=1
    )
    assert [choice.index for choice in text.choices] == [0, 1]
    assert all(choice.logprobs is not None for choice in text.choices)
    assert list(extras(text)) == []
    schema = {
        "type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False,
    }  # fmt: skip
    shaped = await sdk.chat.completions.create(
        model=vllm_engine.model, messages=QUESTION, max_tokens=40,
        response_format={"type": "json_schema", "json_schema": {"name": "ok", "schema": schema}},
    )  # fmt: skip
    assert isinstance(json.loads(shaped.choices[0].message.content or "")["ok"], bool)


async def test_too_long_a_prompt_is_the_callers_error(vllm_engine: VllmEngine, sdk: openai.AsyncOpenAI) -> None:
    long: Any = [{"role": "user", "content": "word " * 9_000}]
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.chat.completions.create(model=vllm_engine.model, messages=long, max_tokens=4)
    assert caught.value.code == "context_length_exceeded"


async def test_vllm_stops_within_two_seconds_when_the_client_leaves(
    vllm_stack: Stack, vllm_engine: VllmEngine, sdk: openai.AsyncOpenAI
) -> None:
    body: dict[str, Any] = {"ignore_eos": True}
    stream = await sdk.chat.completions.create(
        model=vllm_engine.model, messages=QUESTION, max_tokens=1_500, stream=True, extra_body=body
    )
    seen = 0
    request_id = ""
    async for chunk in stream:
        request_id = chunk.id.removeprefix("chatcmpl-")
        seen += 1
        if seen == 5:
            break
    assert cores_used(vllm_processes(vllm_stack), over_s=0.3) > IDLE_CORES_MAX  # it is at work until then
    left = time.monotonic()
    await stream.close()
    row = await vllm_stack.row(request_id, within_s=ABORT_S_MAX + 3)
    assert (row["state"], row["outcome"]) == ("settled", "client_gone")
    assert seen - 1 <= row["completion_tokens"] < 1_500
    busy = vllm_processes(vllm_stack)
    while cores_used(busy, over_s=0.2) > IDLE_CORES_MAX:
        assert time.monotonic() - left < ABORT_S_MAX, "vLLM goes on generating for nobody"


def vllm_processes(stack: Stack) -> list[psutil.Process]:
    """vLLM's own processes of this stack, by the id that every child of `sekisho up` carries."""
    instance = stack.environment[INSTANCE_VARIABLE]
    found = []
    for process in psutil.process_iter(["name", "environ"]):
        environ = process.info["environ"] or {}
        if process.info["name"].startswith("VLLM") and environ.get(INSTANCE_VARIABLE) == instance:
            found.append(process)
    return found


def cores_used(processes: list[psutil.Process], over_s: float) -> float:
    """Cores that these processes keep busy, measured over `over_s` seconds."""

    def spent() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    before, started = spent(), time.monotonic()
    time.sleep(over_s)
    return (spent() - before) / (time.monotonic() - started)
