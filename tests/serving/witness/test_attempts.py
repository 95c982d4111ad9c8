"""Several requests of the engine make one record: its sums, its end, and what an order of ends cannot change."""

import random

import pytest

from serving.witness.attempts import Attempts, Begun, Ended, attempt_of


def begun(prompt: int = 0, choice: int = 0, attempt_id: str = "r-1", images: int = 0) -> Begun:
    return Begun(attempt_id, "m", prompt, choice, 5.0, image_tokens=images, audio_tokens=images // 2)


def ended(completion: int, prompt: int = 10, cached: int = 0, reason: str = "stop", *, prefilled: bool = True) -> Ended:
    return Ended(prompt, cached, completion, reason, prefilled, reasoning_tokens=completion // 2)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("chatcmpl-0198-aa-1", ("0198-aa-1", 0)),
        ("cmpl-0198-aa-1-0", ("0198-aa-1", 0)),
        ("cmpl-0198-aa-2-17", ("0198-aa-2", 17)),
        ("embd-0198-aa-1-3", ("0198-aa-1", 3)),
        ("resp_0198", ("resp_0198", 0)),
        ("cmpl-without", ("cmpl-without", 0)),
    ],
)
def test_the_attempt_is_what_came_as_request_id(name: str, expected: tuple[str, int]) -> None:
    assert attempt_of(name) == expected


def test_choices_share_their_prompt_and_add_what_they_generate() -> None:
    attempts = Attempts()
    for choice in range(3):
        attempts.begin(f"{choice}_r", begun(choice=choice, images=6))
    assert attempts.end("1_r", ended(4, cached=9), 7.0) is None
    assert attempts.end("0_r", ended(2, cached=3, reason="length"), 8.0) is None
    record = attempts.end("2_r", ended(7, cached=9), 9.0)
    assert record is not None
    assert (record.prompt_tokens, record.cached_tokens, record.completion_tokens) == (10, 3, 13)
    assert (record.image_tokens, record.audio_tokens, record.reasoning_tokens) == (6, 3, 6)
    assert (record.state, record.finish_reason, record.started_at, record.ended_at) == ("finished", "length", 5.0, 9.0)


def test_prompts_of_a_list_are_added_and_one_that_was_never_prefilled_is_not_counted() -> None:
    attempts = Attempts()
    for prompt in range(3):
        attempts.begin(f"r-{prompt}", begun(prompt=prompt))
    attempts.end("r-0", ended(2, prompt=10), 7.0)
    attempts.end("r-2", ended(0, prompt=40, reason="abort", prefilled=False), 7.0)
    record = attempts.end("r-1", ended(3, prompt=20, reason="abort"), 7.0)
    assert record is not None
    assert (record.prompt_tokens, record.completion_tokens) == (30, 5)
    assert (record.state, record.finish_reason) == ("aborted", "abort")


def test_a_request_that_joins_after_the_end_makes_a_record_of_the_whole() -> None:
    attempts = Attempts()
    attempts.begin("r-0", begun(prompt=0))
    first = attempts.end("r-0", ended(2), 7.0)
    attempts.begin("r-1", begun(prompt=1))
    second = attempts.end("r-1", ended(3), 8.0)
    assert first is not None
    assert second is not None
    assert (first.prompt_tokens, first.completion_tokens) == (10, 2)
    assert (second.prompt_tokens, second.completion_tokens) == (20, 5)


def test_what_did_not_begin_does_not_end_and_nothing_ends_twice() -> None:
    attempts = Attempts()
    assert attempts.end("x", ended(1), 7.0) is None
    attempts.begin("r", begun())
    assert attempts.end("r", ended(1), 7.0) is not None
    assert attempts.end("r", ended(1), 7.0) is None
    assert attempts.running == []


def test_no_token_is_lost_or_counted_twice_in_any_order_of_ends() -> None:
    dice = random.Random(4)
    for _ in range(2_000):
        attempts, keys, ended_once = Attempts(), [], {}
        for number in range(dice.randint(1, 4)):
            shape = (dice.randint(1, 3), dice.randint(1, 3))
            for prompt in range(shape[0]):
                for choice in range(shape[1]):
                    key = f"{choice}_{number}-{prompt}"
                    attempts.begin(key, begun(prompt, choice, f"a{number}"))
                    keys.append((key, f"a{number}", prompt))
        total = {f"a{number}": 0 for number in range(4)}
        prompts: dict[str, set[int]] = {name: set() for name in total}
        dice.shuffle(keys)
        for key, name, prompt in keys:
            tokens = dice.randint(0, 9)
            total[name] += tokens
            prompts[name].add(prompt)
            record = attempts.end(key, ended(tokens, prompt=100), 7.0)
            if record is not None:
                assert name not in ended_once
                ended_once[name] = record
        assert set(ended_once) == {name for _, name, _ in keys}
        for name, record in ended_once.items():
            assert record.completion_tokens == total[name]
            assert record.prompt_tokens == 100 * len(prompts[name])
