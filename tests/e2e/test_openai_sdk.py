"""The official `openai` SDK as a partner uses it: only `base_url` and the key differ."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from gateway.upstreams.types import NEVER_PASSED
from tests.e2e.conftest import ALL_MODELS, KEEPING_MODEL
from tests.e2e.sdk import REASONING, extras, request_id_of, same_count_everywhere, sync_client, usage_totals
from tests.e2e.stack import Stack
from tests.e2e.tenants import Tenant, Terms, add_tenant
from tests.serving.scripted.process import EngineProcess

ASK: list[Any] = [{"role": "user", "content": "What is a checkpoint?"}]
SMALL = "scripted-small"
WEATHER: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"pass": {"type": "boolean"}},
    "required": ["pass"],
    "additionalProperties": False,
}


@pytest_asyncio.fixture
async def sdk(up: Stack, tenant: Tenant) -> AsyncIterator[openai.AsyncOpenAI]:
    """The asynchronous client of the test's own tenant."""
    async with openai.AsyncOpenAI(base_url=up.base_url, api_key=tenant.key, max_retries=0, timeout=30) as client:
        yield client


async def test_chat_answer_is_counted_alike_by_answer_engine_journal_ledger_and_usage(
    up: Stack, tenant: Tenant, sdk: openai.AsyncOpenAI
) -> None:
    answer = await sdk.chat.completions.create(model=SMALL, messages=ASK, n=3, max_tokens=11)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) == 3
    assert all(choice.finish_reason == "length" for choice in answer.choices)
    assert answer.usage is not None and answer.usage.completion_tokens == 33
    assert list(extras(answer)) == []
    await same_count_everywhere(up, tenant, SMALL, request_id_of(answer.id), answer.usage)


async def test_synchronous_client_gets_the_same_answer_as_the_stream(up: Stack, tenant: Tenant) -> None:
    def ask() -> tuple[str | None, str]:
        with sync_client(up, tenant) as client:
            whole = client.chat.completions.create(model=SMALL, messages=ASK)
            chunks = list(client.chat.completions.create(model=SMALL, messages=ASK, stream=True))
        assert list(extras([whole, *chunks])) == []
        return whole.choices[0].message.content, "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    whole, streamed = await asyncio.to_thread(ask)
    assert whole == streamed != ""


async def test_stream_without_include_usage_shows_no_usage_and_no_empty_choices(
    up: Stack, tenant: Tenant, sdk: openai.AsyncOpenAI
) -> None:
    stream = await sdk.chat.completions.create(model=SMALL, messages=ASK, n=3, max_tokens=9, stream=True)
    chunks = [chunk async for chunk in stream]
    assert all(chunk.choices for chunk in chunks)
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)
    assert list(extras(chunks)) == []
    assert len({chunk.id for chunk in chunks}) == 1
    await same_count_everywhere(up, tenant, SMALL, request_id_of(chunks[0].id), None)


async def test_stream_with_include_usage_shows_null_and_one_last_chunk_with_the_sum(
    up: Stack, tenant: Tenant, sdk: openai.AsyncOpenAI
) -> None:
    stream = await sdk.chat.completions.create(
        model=SMALL, messages=ASK, n=3, max_tokens=9, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = [chunk async for chunk in stream]
    assert all(chunk.choices and chunk.usage is None and "usage" in chunk.model_fields_set for chunk in chunks)
    assert last.choices == [] and last.usage is not None and last.usage.completion_tokens == 27
    assert list(extras([*chunks, last])) == []
    await same_count_everywhere(up, tenant, SMALL, request_id_of(last.id), last.usage)


@pytest.mark.parametrize("streamed", [False, True])
async def test_tool_call_arrives_whole(sdk: openai.AsyncOpenAI, streamed: bool) -> None:
    name, arguments, reason = "", "", ""
    if streamed:
        stream = await sdk.chat.completions.create(model="scripted-tools", messages=ASK, tools=WEATHER, stream=True)
        async for chunk in stream:
            assert list(extras(chunk)) == []
            reason = chunk.choices[0].finish_reason or reason
            for delta in chunk.choices[0].delta.tool_calls or []:
                assert delta.function is not None
                name += delta.function.name or ""
                arguments += delta.function.arguments or ""
    else:
        answer = await sdk.chat.completions.create(model="scripted-tools", messages=ASK, tools=WEATHER)
        assert list(extras(answer)) == []
        call = (answer.choices[0].message.tool_calls or [])[0]
        assert call.type == "function"
        name, arguments, reason = call.function.name, call.function.arguments, answer.choices[0].finish_reason
    assert (name, arguments, reason) == ("get_weather", '{"city": "箱根", "unit": "celsius"}', "tool_calls")


async def test_tool_result_and_the_assistants_own_message_are_taken_back(sdk: openai.AsyncOpenAI) -> None:
    first = await sdk.chat.completions.create(model="scripted-tools", messages=ASK, tools=WEATHER)
    message = first.choices[0].message
    call_id = (message.tool_calls or [])[0].id
    history = [*ASK, message, {"role": "tool", "tool_call_id": call_id, "content": "晴れ"}]
    answer = await sdk.chat.completions.create(model=SMALL, messages=history, max_tokens=4)
    assert answer.choices[0].finish_reason == "length"


async def test_response_format_and_logprobs_reach_the_engine(sdk: openai.AsyncOpenAI) -> None:
    shaped = await sdk.chat.completions.create(
        model=SMALL,
        messages=ASK,
        response_format={"type": "json_schema", "json_schema": {"name": "verdict", "schema": SCHEMA, "strict": True}},
    )
    assert json.loads(shaped.choices[0].message.content or "") in ({"pass": True}, {"pass": False})
    scored = await sdk.chat.completions.create(model=SMALL, messages=ASK, max_tokens=4, logprobs=True, top_logprobs=2)
    logprobs = scored.choices[0].logprobs
    assert logprobs is not None and [len(token.top_logprobs) for token in logprobs.content or []] == [2] * 4
    assert list(extras([shaped, scored])) == []


@pytest.mark.parametrize("streamed", [False, True])
async def test_reasoning_is_the_only_thing_beyond_the_types(
    up: Stack, tenant: Tenant, sdk: openai.AsyncOpenAI, streamed: bool
) -> None:
    model = "scripted-reasoning"
    if streamed:
        stream = await sdk.chat.completions.create(model=model, messages=ASK, stream=True)
        parts: list[Any] = [chunk async for chunk in stream]
    else:
        parts = [await sdk.chat.completions.create(model=model, messages=ASK)]
        assert parts[0].usage.completion_tokens_details.reasoning_tokens > 0
    beyond = {path.rpartition(".")[2] for path in extras(parts)}
    assert beyond and beyond <= REASONING
    await same_count_everywhere(up, tenant, model, request_id_of(parts[0].id), None)
    assert (await up.row(request_id_of(parts[0].id)))["reasoning_tokens"] > 0


@pytest.mark.parametrize("prompt", ["one", ["one", "two and three"], [1, 2, 3], [[1, 2], [3, 4, 5]]])
async def test_completions_whole_and_streamed_say_the_same(up: Stack, sdk: openai.AsyncOpenAI, prompt: Any) -> None:
    whole = await sdk.completions.create(model=SMALL, prompt=prompt, n=2, max_tokens=5, logprobs=1)
    stream = await sdk.completions.create(
        model=SMALL, prompt=prompt, n=2, max_tokens=5, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = [chunk async for chunk in stream]
    texts = [""] * len(whole.choices)
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices]
    assert len(texts) == 2 * (2 if isinstance(prompt[0], list) or len(prompt) == 2 else 1)
    assert whole.usage is not None and last.usage is not None
    assert whole.usage.total_tokens == last.usage.total_tokens
    assert list(extras([whole, *chunks, last])) == []
    for answer in (whole, last):
        row = await up.row(request_id_of(answer.id))
        assert answer.usage is not None
        assert (row["prompt_tokens"], row["completion_tokens"]) == (
            answer.usage.prompt_tokens,
            answer.usage.completion_tokens,
        )


async def test_models_are_listed_and_retrieved(sdk: openai.AsyncOpenAI) -> None:
    listed = [model async for model in sdk.models.list()]
    assert {model.id for model in listed} == set(ALL_MODELS)
    one = await sdk.models.retrieve(SMALL)
    assert one in listed
    assert list(extras(listed)) == []


@pytest.mark.parametrize("stream", [False, True])
async def test_headers_carry_our_request_id_the_clients_own_the_licence_and_the_limits(
    tenant: Tenant, sdk: openai.AsyncOpenAI, stream: bool
) -> None:
    raw = await sdk.chat.completions.with_raw_response.create(
        model=SMALL, messages=ASK, max_tokens=4, stream=stream, extra_headers={"x-request-id": "mine-1"}
    )
    headers = raw.headers
    assert request_id_of(f"x-{headers['x-request-id']}") == headers["x-request-id"] != "mine-1"
    assert headers["x-client-request-id"] == "mine-1"
    assert headers["x-sekisho-licence"] == f"{tenant.licence_id}@1"
    assert headers["x-ratelimit-limit-requests"] == str(10**6)
    assert headers["x-ratelimit-remaining-requests"] == str(10**6 - 1)
    assert 0 < int(headers["x-ratelimit-remaining-tokens"]) < 10**9
    assert headers["x-ratelimit-reset-requests"].endswith("s")
    assert headers.get("x-sekisho-outcome") == (None if stream else "completed")
    answer: Any = raw.parse()
    if stream:
        assert {chunk.id async for chunk in answer} == {f"chatcmpl-{headers['x-request-id']}"}
    else:
        assert answer.id == f"chatcmpl-{headers['x-request-id']}"


@pytest.mark.parametrize("theirs", [b"x" * 129, b"tab\there", b"caf\xe9"])
async def test_a_request_id_that_cannot_be_echoed_safely_is_left_out(client: httpx.AsyncClient, theirs: bytes) -> None:
    answer = await client.get("/models", headers=[(b"x-request-id", theirs)])
    assert answer.status_code == 200
    assert "x-client-request-id" not in answer.headers


Refused = Callable[[openai.AsyncOpenAI], Any]
REFUSALS: list[tuple[str, Refused, type[openai.APIStatusError], str]] = [
    ("type", lambda c: c.chat.completions.create(model=SMALL, messages=ASK, extra_body={"n": "3"}),
     openai.BadRequestError, "invalid_type"),
    ("model", lambda c: c.chat.completions.create(model="none", messages=ASK),
     openai.NotFoundError, "model_not_found"),
    ("key", lambda c: c.with_options(api_key="sk_test_x").chat.completions.create(model=SMALL, messages=ASK),
     openai.AuthenticationError, "invalid_api_key"),
    ("failed", lambda c: c.chat.completions.create(model="scripted-bad-json", messages=ASK),
     openai.InternalServerError, "upstream_failed"),
    ("overloaded", lambda c: c.chat.completions.create(model="scripted-refuse", messages=ASK),
     openai.InternalServerError, "overloaded"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "code"), [case[1:] for case in REFUSALS], ids=[c[0] for c in REFUSALS])
async def test_errors_become_the_sdks_exceptions(
    sdk: openai.AsyncOpenAI, call: Refused, kind: type[openai.APIStatusError], code: str
) -> None:
    with pytest.raises(kind) as caught:
        await call(sdk)
    assert caught.value.code == code
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["request_id"] == caught.value.request_id
    assert caught.value.body["cure"]


async def test_licence_refusal_is_a_permission_error_with_rule_and_licence(up: Stack) -> None:
    tenant = await add_tenant(up, Terms(actions=("completion",)))
    async with openai.AsyncOpenAI(base_url=up.base_url, api_key=tenant.key, max_retries=0) as client:
        with pytest.raises(openai.PermissionDeniedError) as caught:
            await client.chat.completions.create(model=SMALL, messages=ASK)
    assert isinstance(caught.value.body, dict)
    assert (caught.value.code, caught.value.body["rule"]) == ("action_not_licensed", f"{tenant.licence_id}/g1")
    assert caught.value.body["licence"] == f"{tenant.licence_id}@1"


async def test_quota_refusal_is_not_retried_by_the_sdk_and_a_rate_refusal_is(
    up: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    poor = await add_tenant(up, Terms(tokens_month=10))
    hasty = await add_tenant(up, Terms(rpm=0))
    tries = []
    for tenant in (poor, hasty):
        async with openai.AsyncOpenAI(base_url=up.base_url, api_key=tenant.key, max_retries=1) as client:
            # Retry-After would make it wait for the end of the minute.
            monkeypatch.setattr(client, "_calculate_retry_timeout", lambda *_, **__: 0.01)
            with pytest.raises(openai.RateLimitError):
                await client.chat.completions.create(model=SMALL, messages=ASK, max_tokens=4)
        tries.append((await usage_totals(up, tenant))["requests"])
    assert tries == [1, 2]


@pytest.mark.parametrize("field", sorted(NEVER_PASSED))
async def test_a_field_that_is_never_passed_is_refused_by_name(sdk: openai.AsyncOpenAI, field: str) -> None:
    for value in ("1", 1, {"a": 1}, None):
        with pytest.raises(openai.BadRequestError) as caught:
            await sdk.chat.completions.create(model=KEEPING_MODEL, messages=ASK, extra_body={field: value})
        assert (caught.value.code, caught.value.param) == ("unknown_parameter", field)
        with pytest.raises(openai.BadRequestError) as caught:
            await sdk.completions.create(model=KEEPING_MODEL, prompt="a", extra_body={field: value})
        assert (caught.value.code, caught.value.param) == ("unknown_parameter", field)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_engine_gets_only_our_fields_and_always_max_tokens(
    sdk: openai.AsyncOpenAI, keeping_engine: EngineProcess, stream: bool
) -> None:
    raw = await sdk.chat.completions.with_raw_response.create(
        model=KEEPING_MODEL,
        messages=ASK,
        stream=stream,
        user="u",
        seed=7,
        temperature=0.5,
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        extra_headers={"X-Vllm-Priority": "-5", "x-request-id": "theirs", "X-Data-Parallel-Rank": "1"},
    )
    assert raw.http_response.status_code == 200
    await raw.http_response.aread() if stream else None
    request_id = raw.headers["x-request-id"]
    async with httpx.AsyncClient(trust_env=False) as client:
        served = (await client.get(f"{keeping_engine.root}/served/{request_id}-1")).json()
    body, names = served["body"], {name for name, _ in served["headers"]}
    expected = {"model", "messages", "seed", "temperature", "max_tokens"} | (
        {"stream", "stream_options"} if stream else set()
    )
    assert set(body) == expected
    assert body["model"] == KEEPING_MODEL and body["max_tokens"] > 0 and body["messages"] == ASK
    if stream:
        assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert names == {"host", "content-type", "content-length", "x-request-id"}
    assert dict(served["headers"])["x-request-id"] == f"{request_id}-1"


async def test_image_as_data_url_reaches_a_model_that_sees_and_is_counted(up: Stack, tenant: Tenant) -> None:
    picture = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(60)).decode()
    content: Any = [
        {"type": "text", "text": "何が見えますか"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
    ]
    with sync_client(up, tenant) as client:
        answer = client.chat.completions.create(
            model="scripted-vision", messages=[{"role": "user", "content": content}], max_tokens=8
        )
    assert answer.usage is not None
    assert answer.usage.prompt_tokens >= 64  # the image's share
    await same_count_everywhere(up, tenant, "scripted-vision", request_id_of(answer.id), answer.usage)
