"""Bodies: what is refused, with which code and field, and that what is sent is what was judged."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.edge.parse import MESSAGES_MAX, chat_call, completion_call, parse_json
from gateway.faults import Fault
from gateway.upstreams.types import NEVER_PASSED, Profile

PROFILE = Profile(context_tokens=2048, max_output_tokens=512)
SEEING = Profile(context_tokens=2048, max_output_tokens=512, modalities=("text", "image"), image_tokens=64)
HELLO = [{"role": "user", "content": "こんにちは"}]
PNG = "data:image/png;base64," + base64.b64encode(b"\x89PNG" + bytes(20)).decode()


def chat(profile: Profile = PROFILE, **fields: Any) -> Any:
    return chat_call({"model": "m", "messages": HELLO, **fields}, profile)


def image(url: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


def fault_of(action: Any) -> tuple[str, str | None]:
    with pytest.raises(Fault) as caught:
        action()
    return caught.value.code.name, caught.value.param


@pytest.mark.parametrize(
    ("raw", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"{", "invalid_json", None),
        (b"[]", "invalid_type", None),
        (b'{"a":1,"a":2}', "duplicate_key", "a"),
        (b'{"x":[{"a":1,"\\u0061":2}]}', "duplicate_key", "a"),
        (b"[" * 5_000, "nesting_too_deep", None),
        (b'{"a":"\\ud800"}', "invalid_json", None),
        (b'{"a":"\\udc00\\ud800"}', "invalid_json", None),
        (b'{"a":NaN}', "invalid_json", None),
        (b'{"a":"\xff"}', "invalid_json", None),
        (b"\xef\xbb\xbf{}", "invalid_json", None),
        ('{"a":1}'.encode("utf-16"), "invalid_json", None),
        (b'{"a":1}{"a":1}', "invalid_json", None),
        (b"\x00", "invalid_json", None),
        (b'{"tools":[{"x":{"minimum":1e400}}]}', "invalid_value", "tools[0].x.minimum"),
        (b'{"x":-1E+999}', "invalid_value", "x"),
        (b'{"x":' + b"9" * 400 + b".0}", "invalid_value", "x"),
    ],
)
def test_body_that_cannot_be_sent_on_as_it_is_is_refused(raw: bytes, code: str, param: str | None) -> None:
    assert fault_of(lambda: parse_json(raw)) == (code, param)


def test_large_numbers_in_texts_are_only_texts() -> None:
    assert parse_json(b'{"a":"1e400 is huge","b":1e30}') == {"a": "1e400 is huge", "b": 1e30}


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"foo": 1}, "unknown_parameter", "foo"),
        ({"messages": [{"role": "user", "content": "x", "uuid": "1"}]}, "unknown_parameter", "messages[0].uuid"),
        ({"messages": image(PNG)[:0]}, "invalid_value", "messages"),
        ({"messages": [HELLO[0]] * (MESSAGES_MAX + 1)}, "invalid_value", "messages"),
        ({"messages": "x"}, "invalid_type", "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "invalid_value", "messages[0].role"),
        ({"messages": [{"content": "x"}]}, "missing_parameter", "messages[0].role"),
        ({"messages": [{"role": "user", "content": 1}]}, "invalid_type", "messages[0].content"),
        ({"temperature": 2.1}, "invalid_value", "temperature"),
        ({"temperature": "1"}, "invalid_type", "temperature"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"n": 17}, "invalid_value", "n"),
        ({"n": 10**30}, "invalid_value", "n"),
        ({"functions": []}, "invalid_type", "functions"),
        ({"stream_options": {"include_usage": True}}, "invalid_value", "stream_options"),
        ({"stream": True, "stream_options": {"continuous_usage_stats": True}}, "unknown_parameter",
         "stream_options.continuous_usage_stats"),
        ({"messages": image(PNG)}, "media_not_supported", "messages[0].content[0].image_url.url"),
        ({"messages": image("https://example.com/a.png")}, "remote_media_not_supported",
         "messages[0].content[0].image_url.url"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
         "media_not_supported", "messages[0].content[0].input_audio"),
    ],
)  # fmt: skip
def test_bad_field_is_named(fields: dict[str, Any], code: str, param: str) -> None:
    assert fault_of(lambda: chat(**fields)) == (code, param)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://127.0.0.1/a.png", "remote_media_not_supported"),
        ("file:///etc/passwd", "remote_media_not_supported"),
        ("data:image/svg+xml;base64,AAAA", "invalid_value"),
        ("data:image/png;base64,@@@@", "invalid_value"),
        ("data:image/png;base64," + "A" * 7_100_000, "media_too_large"),
    ],
)
def test_bad_image_is_refused(url: str, code: str) -> None:
    assert fault_of(lambda: chat(SEEING, messages=image(url)))[0] == code


def test_image_passes_to_a_model_that_sees_and_is_counted() -> None:
    call = chat(SEEING, messages=image(PNG))
    assert call.prompt_bound == 64 + 16 + 64


@pytest.mark.parametrize("name", sorted(NEVER_PASSED))
def test_field_of_the_never_passed_list_is_refused(name: str) -> None:
    body = {"model": "m", "messages": HELLO, name: 1}
    assert fault_of(lambda: chat_call(body, PROFILE)) == ("unknown_parameter", name)


def test_catalogue_cannot_allow_a_field_of_the_never_passed_list() -> None:
    with pytest.raises(ValueError, match="cache_salt"):
        Profile(context_tokens=1, max_output_tokens=1, extra_params=("cache_salt",))


def test_extra_parameter_of_the_model_passes_as_it_is() -> None:
    profile = Profile(context_tokens=2048, max_output_tokens=512, extra_params=("top_k",))
    assert chat(profile, top_k=5).body["top_k"] == 5
    assert fault_of(lambda: chat(top_k=5)) == ("unknown_parameter", "top_k")


def test_reserved_max_tokens_is_always_sent() -> None:
    assert chat(max_tokens=7).body["max_tokens"] == 7
    assert chat(max_completion_tokens=9, max_tokens=7).body["max_tokens"] == 9
    assert chat(max_tokens=10**9).body["max_tokens"] == 512
    silent = chat()
    assert silent.body["max_tokens"] == silent.max_tokens == 512
    assert "max_completion_tokens" not in chat(max_completion_tokens=9).body


def test_long_prompt_without_a_wish_still_gets_a_real_answer() -> None:
    long = [{"role": "user", "content": "警" * 690}]
    call = chat_call({"model": "m", "messages": long}, PROFILE)
    assert call.body["max_tokens"] == 2048 // 4


def test_suffix_and_extra_parameters_count_into_the_bound() -> None:
    plain = completion_call({"model": "m", "prompt": "a"}, PROFILE).prompt_bound
    assert completion_call({"model": "m", "prompt": "a", "suffix": "x" * 500}, PROFILE).prompt_bound == plain + 500
    profile = Profile(context_tokens=2048, max_output_tokens=512, extra_params=("documents",))
    assert chat(profile, documents=["x" * 500]).prompt_bound >= chat(profile).prompt_bound + 500


def test_stream_always_asks_for_continuous_usage() -> None:
    call = chat(stream=True)
    assert call.body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert not call.include_usage
    assert chat(stream=True, stream_options={"include_usage": True}).include_usage


def test_fields_without_effect_are_taken_and_not_sent() -> None:
    call = chat(user="u", metadata={"a": "b"}, store=False, service_tier="auto", seed=None)
    assert set(call.body) == {"messages", "max_tokens"}


def test_completion_bound_counts_choices_best_of_and_prompts() -> None:
    call = completion_call({"model": "m", "prompt": ["a", "bb"], "n": 2, "best_of": 3, "max_tokens": 10}, PROFILE)
    assert (call.prompt_bound, call.completion_bound) == (1 + 2 + 2 * 64, 10 * 3 * 2)
    ids = completion_call({"model": "m", "prompt": [1, 2, 3]}, PROFILE)
    assert ids.prompt_bound == 3 + 64


@pytest.mark.parametrize("prompt", [[], ["a", 1], [[1], []], [1, "a"], [[]], {"a": 1}, None])
def test_bad_prompt_is_refused(prompt: Any) -> None:
    code, param = fault_of(lambda: completion_call({"model": "m", "prompt": prompt}, PROFILE))
    assert code in ("invalid_value", "invalid_type")
    assert (param or "").startswith("prompt")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
FIELDS = ("messages", "temperature", "n", "stop", "tools", "tool_choice", "response_format", "logit_bias", "stream",
          "stream_options", "max_tokens", "seed", "prompt", "user", "logprobs")  # fmt: skip


@settings(max_examples=2_000)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5))
def test_any_json_either_passes_or_is_a_refusal(fields: dict[str, Any]) -> None:
    tree = parse_json(json.dumps({"model": "m", **fields}).encode())
    for parse in (chat_call, completion_call):
        try:
            call = parse(tree, PROFILE)
        except Fault as fault:
            assert fault.code.status == 400
            assert fault.text("ja")
        else:
            assert call.body["max_tokens"] >= 1
            assert not set(call.body) & NEVER_PASSED


@settings(max_examples=2_000)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=6))
def test_bound_is_never_below_the_bytes_of_the_text(texts: list[str]) -> None:
    call = chat(messages=[{"role": "user", "content": text} for text in texts])
    assert call.prompt_bound >= sum(len(text.encode()) for text in texts)
