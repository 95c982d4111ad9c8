"""Usage is the engine's: continuous per choice, the sum in the last chunk."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.types import Usage
from gateway.edge.meter import StreamMeter, usage_of


def chunk(index: int | None, prompt: int, completion: int, cached: int = 0) -> dict[str, object]:
    choices = [] if index is None else [{"index": index}]
    details = {"cached_tokens": cached}
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "prompt_tokens_details": details}
    return {"choices": choices, "usage": usage}


def test_disconnect_with_three_choices_counts_each_choice_once() -> None:
    meter = StreamMeter(choices_per_prompt=3)
    for index, completion in ((0, 1), (1, 1), (0, 2), (2, 1), (0, 3), (1, 2)):
        meter.add(chunk(index, prompt=11, completion=completion))
    assert meter.usage() == Usage(prompt=11, completion=6)


def test_last_chunk_is_the_truth() -> None:
    meter = StreamMeter(1)
    meter.add(chunk(0, 11, 5))
    meter.add(chunk(None, 11, 7, cached=4))
    assert meter.usage() == Usage(prompt=11, cached=4, completion=7)


def test_chunk_without_usage_changes_nothing() -> None:
    meter = StreamMeter(1)
    meter.add({"choices": [{"index": 0}], "usage": None})
    meter.add({"choices": [{"index": 0}]})
    assert not meter.seen
    assert meter.usage() == Usage()


@pytest.mark.parametrize("usage", [{}, {"prompt_tokens": 5}, {"completion_tokens": 5}])
def test_missing_count_is_not_zero(usage: dict[str, int]) -> None:
    with pytest.raises(KeyError):
        usage_of(usage)


def test_contradicting_counts_are_an_error_and_not_a_bill() -> None:
    with pytest.raises(ValueError, match="contradict"):
        usage_of({"prompt_tokens": 3, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 4}})


@settings(max_examples=2_000)
@given(st.integers(1, 4), st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=4), min_size=1, max_size=4),
       st.randoms(use_true_random=False))  # fmt: skip
def test_any_interleaving_gives_the_sum_over_choices(prompts: int, steps: list[list[int]], rng: object) -> None:
    """`steps[choice]` are the growths of one choice; chunks of all choices come in any order."""
    assert hasattr(rng, "shuffle")
    per_prompt = len(steps)
    events = []
    for prompt in range(prompts):
        for choice, growths in enumerate(steps):
            total = 0
            for growth in growths:
                total += growth
                events.append((prompt * per_prompt + choice, total))
    order = list(range(len(events)))
    rng.shuffle(order)
    meter = StreamMeter(per_prompt)
    for position in order:
        index, total = events[position]
        meter.add(chunk(index, prompt=7, completion=total))
    assert meter.usage() == Usage(prompt=7 * prompts, completion=prompts * sum(map(sum, steps)))
