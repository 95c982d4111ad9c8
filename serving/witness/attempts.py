"""From the requests of an engine to the attempts of the gateway: several of the former make one of the latter.

vLLM makes one request of its own per prompt and choice. A record is the sum over all of them, and stands when the last
one has ended. Pure: no clock, no IO, no vLLM.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, field

from serving.witness.types import Witness

REMEMBERED_MAX = 4096
"""Attempts whose sums are kept after their end: a request that joins later goes on with them."""

_CUT_SHORT = ("abort", "error")
# vLLM 0.29: chat requests are `chatcmpl-<id>`; completions and embeddings are `cmpl-<id>-<prompt>`, also when there is
# one prompt only.
_CHAT = "chatcmpl-"
_NUMBERED = re.compile(r"(?:cmpl|embd)-(.+)-(\d+)")


def attempt_of(external_id: str) -> tuple[str, int]:
    """(attempt id, number of the prompt) of a request as vLLM's front end names it. Another form is left as it is."""
    if external_id.startswith(_CHAT):
        return external_id.removeprefix(_CHAT), 0
    numbered = _NUMBERED.fullmatch(external_id)
    return (numbered[1], int(numbered[2])) if numbered else (external_id, 0)


@dataclass(frozen=True, slots=True)
class Begun:
    """One request of the engine. `prompt` and `choice` say which one of its attempt it is; requests of the same prompt
    share its tokens. Times are unix seconds."""

    attempt_id: str
    model: str
    prompt: int
    choice: int
    started_at: float
    image_tokens: int = 0
    audio_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """What one request had used when it ended. `prefilled` is false when it produced nothing: how far its prompt got is
    not known then, and none of it counts."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    finish_reason: str
    prefilled: bool
    reasoning_tokens: int = 0


@dataclass(slots=True)
class _Sum:
    """One attempt. `prompts` holds, per prompt, the first choice that was prefilled: its choices share the prompt, and
    what the later ones find in the cache is what the first one has put there."""

    began: Begun
    running: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cut_short: bool = False
    first: tuple[int, int] | None = None
    finish_reason: str = ""
    prompts: dict[int, tuple[Begun, Ended]] = field(default_factory=dict)

    def add(self, begun: Begun, ended: Ended) -> None:
        self.completion_tokens += ended.completion_tokens
        self.reasoning_tokens += ended.reasoning_tokens
        self.cut_short = self.cut_short or ended.finish_reason in _CUT_SHORT
        place = (begun.prompt, begun.choice)
        if self.first is None or place < self.first:
            self.first, self.finish_reason = place, ended.finish_reason
        known = self.prompts.get(begun.prompt)
        if ended.prefilled and (known is None or begun.choice < known[0].choice):
            self.prompts[begun.prompt] = (begun, ended)

    def witness(self, ended_at: float) -> Witness:
        prompts = self.prompts.values()
        return Witness(
            attempt_id=self.began.attempt_id,
            model=self.began.model,
            state="aborted" if self.cut_short else "finished",
            prompt_tokens=sum(ended.prompt_tokens for _, ended in prompts),
            cached_tokens=sum(ended.cached_tokens for _, ended in prompts),
            completion_tokens=self.completion_tokens,
            reasoning_tokens=self.reasoning_tokens,
            finish_reason="abort" if self.cut_short else self.finish_reason,
            started_at=self.began.started_at,
            ended_at=ended_at,
            image_tokens=sum(begun.image_tokens for begun, _ in prompts),
            audio_tokens=sum(begun.audio_tokens for begun, _ in prompts),
        )


class Attempts:
    """The attempts under way. `key` is any name of a request that is its own among those that run."""

    def __init__(self) -> None:
        self._requests: dict[str, Begun] = {}
        self._sums: dict[str, _Sum] = {}
        self._ended: OrderedDict[str, _Sum] = OrderedDict()

    @property
    def running(self) -> list[str]:
        """The keys of the requests under way."""
        return list(self._requests)

    def begin(self, key: str, begun: Begun) -> None:
        """Notes a request as under way."""
        known = self._sums.get(begun.attempt_id) or self._ended.pop(begun.attempt_id, None) or _Sum(begun)
        self._sums[begun.attempt_id] = known
        self._requests[key] = begun
        known.running += 1

    def end(self, key: str, ended: Ended, ended_at: float) -> Witness | None:
        """Notes the end of a request; the record of its attempt when that was the last one under way.

        A request that joins an attempt which had ended makes a second record, which counts everything anew: the last
        record of an attempt is the one that is true.
        """
        begun = self._requests.pop(key, None)
        if begun is None:
            return None
        found = self._sums[begun.attempt_id]
        found.add(begun, ended)
        found.running -= 1
        if found.running:
            return None
        del self._sums[begun.attempt_id]
        self._ended[begun.attempt_id] = found
        if len(self._ended) > REMEMBERED_MAX:
            self._ended.popitem(last=False)
        return found.witness(ended_at)
