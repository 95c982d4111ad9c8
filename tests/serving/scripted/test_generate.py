"""Splitting, counting, and the three ways an answer ends."""

from hypothesis import given
from hypothesis import strategies as st

from serving.scripted.generate import ToolCall, plan, ruled_deltas, stop_at, text_deltas, tool_deltas
from serving.scripted.scenario import Deltas, Split
from serving.scripted.tokens import count_conversation, count_text, split_tokens

TEXTS = st.text(alphabet="ab関 \n", min_size=1, max_size=40)


@given(st.text(max_size=60), st.integers(1, 7))
def test_tokens_joined_give_the_text_back(text: str, size: int) -> None:
    tokens = split_tokens(text, size)
    assert "".join(tokens) == text
    assert all(0 < len(token) <= size for token in tokens)


@given(st.lists(st.lists(st.text(max_size=30), max_size=3), min_size=1, max_size=5))
def test_prompt_tokens_stay_below_the_bound_the_gateway_reserves(messages: list[list[str]]) -> None:
    size = sum(len(text.encode("utf-8", "replace")) for texts in messages for text in texts)
    assert 0 < count_conversation(messages) <= size + 16 * len(messages) + 64


def test_prompt_tokens_by_hand() -> None:
    assert [count_text(text) for text in ("", "a", "abcd", "abcde", "こんにちは")] == [0, 1, 1, 2, 2]
    assert count_conversation([["abcde"], ["ab", "cd"]]) == 3 + (4 + 2) + (4 + 2)
    assert count_conversation([["abcd"]], image_tokens=64) == 3 + 5 + 64


def test_the_rule_groups_tokens_into_deltas() -> None:
    deltas = ruled_deltas("content", "abcdefgh!", Split(chars_per_token=2, tokens_per_delta=2))
    assert [delta.text for delta in deltas] == ["abcd", "efgh", "!"]
    assert [len(delta.tokens) for delta in deltas] == [2, 2, 1]


def test_explicit_deltas_are_kept_and_an_empty_one_counts_one_token() -> None:
    deltas = text_deltas("content", Deltas(["a", "", "bcdefg"]), Split())
    assert [(delta.text, len(delta.tokens)) for delta in deltas] == [("a", 1), ("", 1), ("bcdefg", 2)]


@given(TEXTS, st.integers(1, 15), st.integers(1, 3))
def test_max_tokens_is_exact_and_the_reason_is_length(text: str, limit: int, group: int) -> None:
    split = Split(chars_per_token=2, tokens_per_delta=group)
    made = plan(ruled_deltas("content", text, split), limit=limit)
    whole = len(split_tokens(text, 2))
    assert made.tokens == sum(len(delta.tokens) for delta in made.deltas) == min(limit, whole)
    assert made.finish_reason == ("length" if whole >= limit else "stop")
    assert made.text("content") == text[: 2 * limit]


def test_repeating_goes_on_until_the_tokens_are_reached() -> None:
    made = plan(ruled_deltas("content", "abcdef", Split(chars_per_token=4)), limit=100, repeat_to=5)
    assert (made.tokens, made.text("content"), made.finish_reason) == (5, "abcdefabcdefabcd", "stop")
    full = plan(ruled_deltas("content", "abcdef", Split()), limit=5, repeat_to=100)
    assert (full.tokens, full.finish_reason) == (5, "length")


@given(TEXTS, st.lists(st.text(alphabet="ab関", min_size=1, max_size=4), min_size=1, max_size=3), st.booleans())
def test_a_stop_string_ends_the_text_and_is_never_sent(text: str, stops: list[str], include: bool) -> None:
    whole = plan(ruled_deltas("content", text, Split(chars_per_token=3)), limit=100)
    made = stop_at(whole, tuple(stops), include=include)
    # The reference: the first token after which the text so far holds a stop string, and the earliest one in it.
    said, tokens, expected = "", 0, text
    for token in split_tokens(text, 3):
        said, tokens = said + token, tokens + 1
        hits = sorted((said.find(stop), stop) for stop in stops if stop in said)
        if hits:
            expected = said[: hits[0][0]] + (hits[0][1] if include else "")
            assert (made.finish_reason, made.stop_reason) == ("stop", hits[0][1])
            break
    else:
        assert made.stop_reason is None
    assert made.text("content") == expected
    assert made.tokens == tokens == sum(len(delta.tokens) for delta in made.deltas)


def test_what_may_become_a_stop_string_is_held_back() -> None:
    whole = plan(text_deltas("content", Deltas(["one ", "EN", "X two"]), Split(chars_per_token=9)), limit=100)
    made = stop_at(whole, ("END",), include=False)
    assert [delta.text for delta in made.deltas] == ["on", "e ", "ENX two"]
    assert made.text("content") == "one ENX two"


def test_reasoning_is_counted_apart_and_cut_like_the_rest() -> None:
    deltas = ruled_deltas("reasoning", "abcdefgh", Split()) + ruled_deltas("content", "ijkl", Split())
    assert plan(deltas, limit=100).reasoning_tokens == 2
    assert plan(deltas, limit=1).reasoning_tokens == 1


def test_a_tool_call_streams_its_name_first_then_its_arguments() -> None:
    call = ToolCall("id-1", "look", '{"a": 1}')
    deltas = tool_deltas([(call, call.arguments)], Split())
    assert b'"name":"look"' in deltas[0].chat
    assert "".join(delta.text for delta in deltas) == '{"a": 1}'
    cut = plan(deltas, limit=2, finish="tool_calls", calls=(call,))
    assert (cut.tokens, cut.finish_reason) == (2, "length")
