"""Behaviours that every upstream must show: ids, lengths, stops, log probabilities, structure, refusals."""

import json
from typing import Any

import httpx
import openai
import pytest

from tests.contract.asking import USAGE, answer, chat_body, completion_body, new_id, post, stream
from tests.contract.conftest import Upstream
from tests.serving.scripted.sse import chunks, text_of


async def test_models_lists_the_model_that_is_served(client: httpx.AsyncClient, upstream: Upstream) -> None:
    listing = (await client.get("/v1/models")).json()
    assert listing["object"] == "list"
    assert upstream.model in {model["id"] for model in listing["data"] if model["object"] == "model"}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("make", "prefix"), [(chat_body, "chatcmpl"), (completion_body, "cmpl")])
async def test_the_answers_id_is_the_request_id_sent(
    client: httpx.AsyncClient, upstream: Upstream, make: Any, prefix: str, streamed: bool
) -> None:
    attempt_id = new_id()
    response = await post(client, make(upstream) | (USAGE if streamed else {}), attempt_id)
    items = chunks(response.content) if streamed else [response.json()]
    assert {item["id"] for item in items} == {f"{prefix}-{attempt_id}"}
    assert {item["model"] for item in items} == {upstream.model}


async def test_a_chat_stream_opens_with_the_role_and_each_choice_finishes_once(
    client: httpx.AsyncClient, upstream: Upstream
) -> None:
    items = await stream(client, chat_body(upstream))
    choices = [choice for item in items for choice in item["choices"]]
    assert choices[0]["delta"]["role"] == "assistant"
    assert all({"index", "delta", "finish_reason"} <= set(choice) for choice in choices)
    assert [choice["finish_reason"] is not None for choice in choices].count(True) == 1
    assert choices[-1]["finish_reason"] in ("stop", "length")


@pytest.mark.parametrize("make", [chat_body, completion_body])
async def test_streamed_and_whole_answers_say_the_same(
    client: httpx.AsyncClient, upstream: Upstream, make: Any
) -> None:
    whole = (await answer(client, make(upstream)))["choices"][0]
    said = whole["text"] if "text" in whole else whole["message"]["content"]
    assert said
    assert text_of(await stream(client, make(upstream))) == said


@pytest.mark.parametrize("make", [chat_body, completion_body])
@pytest.mark.parametrize("limit", [1, 7])
async def test_max_tokens_is_reached_exactly_and_named(
    client: httpx.AsyncClient, upstream: Upstream, make: Any, limit: int
) -> None:
    body = make(upstream, max_tokens=limit, ignore_eos=True)
    whole = await answer(client, body)
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["usage"]["completion_tokens"] == limit
    *before, closing = await stream(client, body)
    assert before[-1]["choices"][0]["finish_reason"] == "length"
    assert closing["usage"]["completion_tokens"] == limit


async def test_a_stop_string_ends_the_answer_before_it(client: httpx.AsyncClient, upstream: Upstream) -> None:
    body = completion_body(upstream, max_tokens=24)
    text = (await answer(client, body))["choices"][0]["text"]
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    stopped = (await answer(client, body | {"stop": [stop]}))["choices"][0]
    assert stopped["text"] == text[: text.index(stop)]
    assert (stopped["finish_reason"], stopped["stop_reason"]) == ("stop", stop)
    assert text_of(await stream(client, body | {"stop": [stop]})) == stopped["text"]


async def test_list_prompts_give_a_choice_each(client: httpx.AsyncClient, upstream: Upstream) -> None:
    body = completion_body(upstream, ["One, two,", "The sea is", "Red and"], max_tokens=4, ignore_eos=True)
    whole = await answer(client, body)
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    assert whole["usage"]["completion_tokens"] == 12
    items = await stream(client, body)
    for choice in whole["choices"]:
        assert text_of(items, choice["index"]) == choice["text"]


async def test_chat_logprobs_have_one_entry_per_token(client: httpx.AsyncClient, upstream: Upstream) -> None:
    body = chat_body(upstream, logprobs=True, top_logprobs=2, max_tokens=5, ignore_eos=True)
    entries = (await answer(client, body))["choices"][0]["logprobs"]["content"]
    assert len(entries) == 5
    for entry in entries:
        assert entry["logprob"] <= 0
        assert isinstance(entry["bytes"], list)
        assert len(entry["top_logprobs"]) == 2
    items = await stream(client, body)
    streamed = [e for item in items for c in item["choices"] for e in (c["logprobs"] or {}).get("content", [])]
    assert [entry["token"] for entry in streamed] == [entry["token"] for entry in entries]


async def test_completion_logprobs_have_one_entry_per_token(client: httpx.AsyncClient, upstream: Upstream) -> None:
    body = completion_body(upstream, logprobs=1, max_tokens=5, ignore_eos=True)
    logprobs = (await answer(client, body))["choices"][0]["logprobs"]
    assert {len(logprobs[name]) for name in ("tokens", "token_logprobs", "text_offset", "top_logprobs")} == {5}
    assert all(top and max(top.values()) <= 0 for top in logprobs["top_logprobs"])


async def test_a_json_schema_is_satisfied(client: httpx.AsyncClient, upstream: Upstream) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Tokyo", "Kyoto"]}, "big": {"type": "boolean"}},
        "required": ["city", "big"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}
    whole = await answer(client, chat_body(upstream, response_format=wanted, max_tokens=200))
    value = json.loads(whole["choices"][0]["message"]["content"])
    assert value["city"] in ("Tokyo", "Kyoto")
    assert isinstance(value["big"], bool)
    assert set(value) == {"city", "big"}


@pytest.mark.parametrize("make", [chat_body, completion_body])
async def test_the_fields_the_gateway_sets_are_accepted(
    client: httpx.AsyncClient, upstream: Upstream, make: Any
) -> None:
    await answer(client, make(upstream, cache_salt="a" * 64, priority=5, seed=7, user="t"))


@pytest.mark.parametrize("make", [chat_body, completion_body])
async def test_an_unknown_model_is_404(client: httpx.AsyncClient, upstream: Upstream, make: Any) -> None:
    response = await post(client, make(upstream, model="no-such-model"))
    assert response.status_code == 404
    assert "no-such-model" in response.text


@pytest.mark.parametrize(
    "content",
    [b"{", b"", b"[]", b'"text"', b'{"model": 7}', b'{"messages": "hi", "model": "%s"}', b'{"model": "%s"}', b"\xff"],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_a_malformed_body_is_the_clients_fault(
    client: httpx.AsyncClient, upstream: Upstream, path: str, content: bytes
) -> None:
    body = content.replace(b"%s", upstream.model.encode())
    response = await client.post(path, content=body, headers={"content-type": "application/json"})
    assert 400 <= response.status_code < 500


@pytest.mark.parametrize("fields", [{"max_tokens": 0}, {"n": 0}, {"stop": [""]}, {"top_logprobs": 3}])
async def test_values_out_of_range_are_the_clients_fault(
    client: httpx.AsyncClient, upstream: Upstream, fields: dict[str, Any]
) -> None:
    assert 400 <= (await post(client, chat_body(upstream, **fields))).status_code < 500


async def test_the_openai_sdk_understands_both_kinds_of_answer(upstream: Upstream) -> None:
    messages: Any = [{"role": "user", "content": "Say hello."}]
    async with openai.AsyncOpenAI(base_url=f"{upstream.root}/v1", api_key="none", max_retries=0) as sdk:
        whole = await sdk.chat.completions.create(model=upstream.model, messages=messages, max_tokens=8, temperature=0)
        said, usage = "", None
        async for chunk in await sdk.chat.completions.create(
            model=upstream.model,
            messages=messages,
            max_tokens=8,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        ):
            usage = chunk.usage or usage
            said += "".join(choice.delta.content or "" for choice in chunk.choices)
    assert said == whole.choices[0].message.content
    assert usage is not None
    assert whole.usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens
