"""Only documented fields of an engine's answer reach a client."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.edge.openai import public_usage, scrub

CHUNK: dict[str, Any] = {
    "id": "chatcmpl-engine", "object": "chat.completion.chunk", "created": 1, "model": "/models/secret-path",
    "system_fingerprint": None, "kv_transfer_params": None, "prompt_token_ids": [1],
    "choices": [
        {"index": 0, "delta": {"role": "assistant", "content": "", "reasoning": None, "tool_calls": []},
         "logprobs": None, "finish_reason": None, "stop_reason": None, "token_ids": None}
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}  # fmt: skip


def test_engine_names_and_extras_do_not_pass() -> None:
    assert scrub(CHUNK, "chatcmpl-ours", "model-1") == {
        "id": "chatcmpl-ours", "object": "chat.completion.chunk", "created": 1, "model": "model-1",
        "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None,
                     "finish_reason": None}],
        "usage": CHUNK["usage"],
    }  # fmt: skip


def test_reasoning_passes_when_there_is_some() -> None:
    chunk = {**CHUNK, "choices": [{"index": 0, "delta": {"reasoning": "because"}}]}
    assert scrub(chunk, "i", "m")["choices"][0]["delta"] == {"reasoning": "because"}


def test_usage_keeps_only_filled_details() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "prompt_tokens_details": None,
             "completion_tokens_details": {"reasoning_tokens": 1, "x": 2, "audio_tokens": None},
             "engine_extra": 1}  # fmt: skip
    assert public_usage(usage) == {
        "prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3,
        "completion_tokens_details": {"reasoning_tokens": 1},
    }  # fmt: skip


NAMES = st.sampled_from(["id", "model", "choices", "usage", "kv_transfer_params", "token_ids", "prompt_logprobs", "x"])


@settings(max_examples=2_000)
@given(st.dictionaries(NAMES, st.integers(), max_size=8), st.dictionaries(NAMES, st.integers(), max_size=8))
def test_nothing_outside_the_allow_list_ever_passes(top: dict[str, Any], choice: dict[str, Any]) -> None:
    clean = scrub({**top, "choices": [choice]}, "ours", "m")
    assert set(clean) <= {"id", "object", "created", "model", "choices", "usage", "system_fingerprint", "service_tier"}
    assert set(clean["choices"][0]) <= {"index", "message", "delta", "text", "finish_reason", "logprobs"}
    assert (clean["id"], clean["model"]) == ("ours", "m")
