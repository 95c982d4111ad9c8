"""Reads the engine's own counts out of its answer. Chunks are never counted, text is never tokenised again."""

from typing import Any

from billing.types import Usage


def usage_of(raw: dict[str, Any]) -> Usage:
    """The counts of one `usage` object of the OpenAI dialect.

    A missing count is not zero: raises `KeyError` without `prompt_tokens` or `completion_tokens`, and `ValueError` when
    the counts contradict each other.
    """
    prompt_details = raw.get("prompt_tokens_details") or {}
    completion_details = raw.get("completion_tokens_details") or {}
    usage = Usage(
        prompt=int(raw["prompt_tokens"]),
        cached=int(prompt_details.get("cached_tokens") or 0),
        completion=int(raw["completion_tokens"]),
        reasoning=int(completion_details.get("reasoning_tokens") or 0),
        image=_media(prompt_details, "image"),
        audio=_media(prompt_details, "audio"),
    )
    if not usage.consistent:
        raise ValueError("the engine's counts contradict each other")
    return usage


def _media(details: dict[str, Any], modality: str) -> int:
    """Tokens of images or audio within the prompt: vLLM says `multimodal_tokens: {"image": n}`, the OpenAI API
    `audio_tokens`."""
    by_modality = details.get("multimodal_tokens") or {}
    return int(by_modality.get(modality) or details.get(f"{modality}_tokens") or 0)


class StreamMeter:
    """Cumulative usage of a stream.

    With continuous usage vLLM counts completion tokens per choice and prompt tokens per prompt; only the last chunk,
    which has no choices, carries the sum. So the maximum per choice is kept, and they are added up.
    """

    def __init__(self, choices_per_prompt: int) -> None:
        self._choices_per_prompt = choices_per_prompt
        self._by_choice: dict[int, Usage] = {}
        self._sum: Usage | None = None

    @property
    def seen(self) -> bool:
        """Whether the engine has given any count yet."""
        return self._sum is not None or bool(self._by_choice)

    def add(self, chunk: dict[str, Any]) -> None:
        """Take the counts of one chunk, if it has any."""
        raw = chunk.get("usage")
        if not raw:
            return
        usage = usage_of(raw)
        choices = chunk["choices"]
        if not choices:
            self._sum = usage
            return
        index = int(choices[0]["index"])
        known = self._by_choice.get(index)
        self._by_choice[index] = usage if known is None else _larger(known, usage)

    def usage(self) -> Usage:
        """The usage so far."""
        if self._sum is not None:
            return self._sum
        prompts: dict[int, Usage] = {}
        for index, usage in self._by_choice.items():
            prompt = index // self._choices_per_prompt
            prompts[prompt] = _larger(prompts.get(prompt, Usage()), usage)
        return Usage(
            prompt=sum(usage.prompt for usage in prompts.values()),
            cached=sum(usage.cached for usage in prompts.values()),
            completion=sum(usage.completion for usage in self._by_choice.values()),
            reasoning=sum(usage.reasoning for usage in self._by_choice.values()),
            image=sum(usage.image for usage in prompts.values()),
            audio=sum(usage.audio for usage in prompts.values()),
        )


def _larger(one: Usage, other: Usage) -> Usage:
    return Usage(
        max(one.prompt, other.prompt), max(one.cached, other.cached),
        max(one.completion, other.completion), max(one.reasoning, other.reasoning),
        max(one.image, other.image), max(one.audio, other.audio),
    )  # fmt: skip
