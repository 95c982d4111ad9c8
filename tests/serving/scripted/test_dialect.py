"""What only the scripted engine promises of its answers; what every engine must show is in tests/contract."""

import json
from typing import Any

import httpx
import pytest

from tests.serving.scripted.asking import USAGE, chat, chat_body, new_id, witness
from tests.serving.scripted.sse import chunks, text_of

TEXT = "abcdefghijklmnopqrst"
TOOLS = [
    {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}},
    {
        "type": "function",
        "function": {
            "name": "weigh",
            "parameters": {"type": "object", "properties": {"kg": {"type": "integer", "minimum": 2}}},
        },
    },
]


async def test_full_answer_has_every_field_that_vllm_sends(client: httpx.AsyncClient) -> None:
    answer = (await chat(client, "plain", "full-1")).json()
    answer.pop("created")
    assert answer == {
        "id": "chatcmpl-full-1",
        "object": "chat.completion",
        "model": "plain",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": TEXT,
                    "refusal": None,
                    "annotations": None,
                    "audio": None,
                    "function_call": None,
                    "reasoning": None,
                },
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
                "token_ids": None,
                "routed_experts": None,
            }
        ],
        "service_tier": None,
        "system_fingerprint": "scripted-1",
        "usage": {
            "prompt_tokens": 8,
            "total_tokens": 13,
            "completion_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 0, "created_cache_tokens": 0, "multimodal_tokens": None},
            "completion_tokens_details": None,
        },
        "prompt_logprobs": None,
        "prompt_token_ids": None,
        "prompt_text": None,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    }


async def test_each_text_goes_to_its_choice_over_prompts_and_n(client: httpx.AsyncClient) -> None:
    body = {"model": "two", "prompt": ["a", "b"], "n": 1, "max_tokens": 50}
    choices = (await client.post("/v1/completions", json=body)).json()["choices"]
    assert [choice["text"] for choice in choices] == ["first text", "second text"]


async def test_explicit_deltas_arrive_as_written(client: httpx.AsyncClient) -> None:
    items = chunks((await chat(client, "deltas", **USAGE)).content)
    said = [(c["choices"][0]["delta"]["content"], c["usage"]["completion_tokens"]) for c in items[1:-1]]
    assert said == [("he", 1), ("", 2), ("llo", 3), (" there", 5)]


async def test_reasoning_comes_first_and_is_counted_within_the_completion(client: httpx.AsyncClient) -> None:
    items = chunks((await chat(client, "thinks", "thinks-1", **USAGE)).content)
    deltas = [c["choices"][0]["delta"] for c in items[1:-1]]
    assert deltas == [{"reasoning": "eigh"}, {"reasoning": "tchr"}, {"content": "answ"}, {"content": "er!!"}]
    details = [c["usage"]["completion_tokens_details"]["reasoning_tokens"] for c in items]
    assert details == [0, 1, 2, 2, 2, 2]
    found = await witness(client, "thinks-1")
    assert (found["completion_tokens"], found["reasoning_tokens"]) == (4, 2)


async def test_hidden_reasoning_is_not_sent_but_counted(client: httpx.AsyncClient) -> None:
    answer = (await chat(client, "thinks", include_reasoning=False)).json()
    assert answer["choices"][0]["message"]["reasoning"] is None
    assert answer["usage"]["completion_tokens"] == 4
    items = chunks((await chat(client, "thinks", include_reasoning=False, **USAGE)).content)
    assert all("reasoning" not in choice["delta"] for item in items for choice in item["choices"])
    assert items[-1]["usage"]["completion_tokens"] == 4


async def test_tools_are_called_when_offered(client: httpx.AsyncClient) -> None:
    message = (await chat(client, "tools", tools=TOOLS)).json()["choices"][0]
    assert message["finish_reason"] == "tool_calls"
    assert message["message"]["content"] is None
    calls = message["message"]["tool_calls"]
    assert [(c["function"]["name"], c["function"]["arguments"]) for c in calls] == [
        ("look", '{"a": 1}'),
        ("other", "{}"),
    ]
    assert len({c["id"] for c in calls}) == 2


async def test_streamed_tool_call_joins_to_the_same_arguments(client: httpx.AsyncClient) -> None:
    items = chunks((await chat(client, "tools", tools=TOOLS, parallel_tool_calls=False, **USAGE)).content)
    parts = [call for c in items[:-1] for call in c["choices"][0]["delta"].get("tool_calls", [])]
    assert parts[0]["function"] == {"name": "look"}
    assert "".join(part["function"]["arguments"] for part in parts[1:]) == '{"a": 1}'
    assert {part["index"] for part in parts} == {0}
    last = items[-2]["choices"][0]
    assert (last["delta"], last["finish_reason"]) == ({}, "tool_calls")


@pytest.mark.parametrize(
    ("choice", "name", "arguments", "finish"),
    [
        ({"type": "function", "function": {"name": "weigh"}}, "weigh", {"kg": 2}, "stop"),
        ("required", "look", {}, "tool_calls"),
    ],
)
async def test_a_forced_tool_gets_arguments_that_fit_its_schema(
    client: httpx.AsyncClient, choice: Any, name: str, arguments: Any, finish: str
) -> None:
    answer = (await chat(client, "plain", tools=TOOLS, tool_choice=choice)).json()["choices"][0]
    function = answer["message"]["tool_calls"][0]["function"]
    assert (function["name"], json.loads(function["arguments"]), answer["finish_reason"]) == (name, arguments, finish)


async def test_tools_forbidden_are_not_called(client: httpx.AsyncClient) -> None:
    answer = (await chat(client, "tools", tools=TOOLS, tool_choice="none")).json()["choices"][0]
    assert answer["message"]["content"] == "no tool"
    assert "tool_calls" not in answer["message"]


async def test_images_count_by_the_scenario_and_only_as_data_urls(client: httpx.AsyncClient) -> None:
    def asked(model: str, url: str) -> dict[str, Any]:
        parts = [{"type": "text", "text": "what"}, {"type": "image_url", "image_url": {"url": url}}]
        return {"model": model, "messages": [{"role": "user", "content": parts}]}

    data = "data:image/png;base64,AAAA"
    usage = (await client.post("/v1/chat/completions", json=asked("sees", data))).json()["usage"]
    assert usage["prompt_tokens"] == 3 + 4 + 1 + 64
    assert usage["prompt_tokens_details"]["multimodal_tokens"] == {"image": 64}
    assert usage["prompt_tokens_details"]["cached_tokens"] == 5
    for model, url in (("plain", data), ("sees", "https://example.jp/cat.png")):
        assert (await client.post("/v1/chat/completions", json=asked(model, url))).status_code == 400


async def test_context_length_is_refused_not_clamped(client: httpx.AsyncClient) -> None:
    assert (await chat(client, "short", max_tokens=12)).status_code == 200
    refused = await chat(client, "short", max_tokens=13)
    assert refused.status_code == 400
    assert "maximum context length is 20" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ["a", ""]}, "stop"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"logprobs": True, "top_logprobs": 21}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"tools": []}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tools": TOOLS, "tool_choice": {"function": {"name": "absent"}}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": "perhaps"}, "tool_choice"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}}, "response_format"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "messages"),
    ],
)
async def test_what_cannot_be_served_is_refused_with_the_parameter(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str
) -> None:
    refused = await client.post("/v1/chat/completions", json=chat_body("plain") | fields)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("BadRequestError", param, 400)


async def test_the_body_that_arrived_can_be_read_back_unknown_fields_included(client: httpx.AsyncClient) -> None:
    attempt_id = new_id()
    sent = chat_body("plain", cache_salt="s", priority=3, made_up={"deep": [1, None]})
    headers = {"x-request-id": attempt_id, "X-Vllm-Priority": "7"}
    assert (await client.post("/v1/chat/completions", json=sent, headers=headers)).status_code == 200
    kept = (await client.get(f"/served/{attempt_id}")).json()
    assert kept["body"] == sent
    assert ["x-vllm-priority", "7"] in kept["headers"]
    assert kept["path"] == "/v1/chat/completions"


async def test_only_the_last_bodies_are_kept(client: httpx.AsyncClient) -> None:
    first = new_id()
    await chat(client, "plain", first)
    for _ in range(50):
        await chat(client, "plain")
    assert (await client.get(f"/served/{first}")).status_code == 404


async def test_default_texts_do_not_repeat_the_prompt(client: httpx.AsyncClient) -> None:
    prompt = "purple elephants juggle 紫の象"
    for model in ("plain", "two", "thinks"):
        answer = await client.post(
            "/v1/chat/completions", json={"model": model, "messages": [{"role": "user", "content": prompt}]}
        )
        assert "elephant" not in answer.text
        assert "象" not in answer.json()["choices"][0]["message"]["content"]


async def test_completion_logprobs_have_offsets_that_follow_the_text(client: httpx.AsyncClient) -> None:
    body = {"model": "plain", "prompt": "p", "logprobs": 2, "max_tokens": 3}
    whole = (await client.post("/v1/completions", json=body)).json()["choices"][0]["logprobs"]
    assert whole["text_offset"] == [0, 4, 8]
    items = chunks((await client.post("/v1/completions", json=body | USAGE)).content)
    assert [c["choices"][0]["logprobs"]["text_offset"][0] for c in items[:-1]] == [0, 4, 8]
    assert text_of(items) == "abcdefghijkl"


async def test_usage_comes_only_where_it_was_asked_for(client: httpx.AsyncClient) -> None:
    # Our real engines force usage on, so this is not part of the contract of every upstream; plain vLLM does the same.
    plain = chunks((await chat(client, "plain", stream=True)).content)
    assert all(item["choices"] and "usage" not in item for item in plain)
    assert plain[-1]["system_fingerprint"] == "scripted-1"
    *before, closing = chunks(
        (await chat(client, "plain", stream=True, stream_options={"include_usage": True})).content
    )
    assert all(item["choices"] and "usage" not in item for item in before)
    assert (closing["choices"], closing["usage"]["completion_tokens"]) == ([], 5)
