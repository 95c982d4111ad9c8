"""What one choice says: a scenario's texts cut into deltas, and ended by max_tokens, a stop string or their own end.

Pure: no clock, no IO. A :class:`ChoicePlan` is made before the first byte leaves; the engine only paces it.
"""

from dataclasses import dataclass
from typing import Literal

import msgspec

from serving.scripted.scenario import Deltas, Split
from serving.scripted.tokens import split_tokens

Kind = Literal["reasoning", "content", "tool"]
encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Delta:
    """One streamed piece. ``tokens`` are the texts of its tokens: together they can be longer or shorter than
    ``text``, because a possible stop string is held back until it is decided. ``chat`` is its chat delta as JSON."""

    kind: Kind
    text: str
    tokens: tuple[str, ...]
    chat: bytes


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call as it stands in a full message."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ChoicePlan:
    """Everything that one choice will send, in order; the last delta carries ``finish_reason``."""

    deltas: tuple[Delta, ...]
    finish_reason: str
    stop_reason: str | None
    tokens: int
    reasoning_tokens: int
    calls: tuple[ToolCall, ...] = ()

    def text(self, kind: Kind) -> str:
        """The full text of one kind."""
        return "".join(delta.text for delta in self.deltas if delta.kind == kind)


def text_deltas(kind: Kind, text: str | Deltas, split: Split) -> tuple[Delta, ...]:
    """The deltas of a text: as written out, or by the rule of ``split``."""
    if isinstance(text, Deltas):
        return tuple(_text_delta(kind, d, split_tokens(d, split.chars_per_token) or ("",)) for d in text.deltas)
    return ruled_deltas(kind, text, split)


def ruled_deltas(kind: Kind, text: str, split: Split) -> tuple[Delta, ...]:
    """The deltas of a plain text by the rule of ``split``."""
    groups = _grouped(split_tokens(text, split.chars_per_token), split.tokens_per_delta)
    return tuple(_text_delta(kind, "".join(group), group) for group in groups)


def tool_deltas(calls: list[tuple[ToolCall, str | Deltas]], split: Split) -> tuple[Delta, ...]:
    """The deltas of tool calls: each name first, whole, then its arguments piece by piece, and last the end token.

    Tried with vLLM 0.29 (parser hermes): ``content`` is null beside a call, and the finish reason comes with an empty
    delta of its own.
    """
    deltas: list[Delta] = []
    for index, (call, arguments) in enumerate(calls):
        opening = {
            "id": call.call_id,
            "type": "function",
            "index": index,
            "function": {"name": call.name},
        }
        tokens = split_tokens(call.name, split.chars_per_token) or ("",)
        deltas.append(Delta("tool", "", tokens, encode({"content": None, "tool_calls": [opening]})))
        for piece in text_deltas("tool", arguments, split):
            more = {"index": index, "function": {"arguments": piece.text}}
            deltas.append(Delta("tool", piece.text, piece.tokens, encode({"content": None, "tool_calls": [more]})))
    deltas.append(Delta("tool", "", ("",), b"{}"))
    return tuple(deltas)


def plan(
    deltas: tuple[Delta, ...],
    *,
    limit: int,
    repeat_to: int | None = None,
    calls: tuple[ToolCall, ...] = (),
    finish: str = "stop",
) -> ChoicePlan:
    """Ends ``deltas`` after ``limit`` tokens (finish reason ``length``) or at their own end (``finish``).

    ``repeat_to`` first repeats the whole sequence until it has that many tokens. A text of exactly ``limit`` tokens
    ends with ``length``, as in vLLM, where the end itself would have been one token more.
    """
    if repeat_to is not None:
        deltas = _repeated(deltas, min(repeat_to, limit))
    kept, tokens, cut = _cut(deltas, limit)
    full = cut or (tokens == limit and finish == "stop")
    return ChoicePlan(
        deltas=kept,
        finish_reason="length" if full else finish,
        stop_reason=None,
        tokens=tokens,
        reasoning_tokens=sum(len(delta.tokens) for delta in kept if delta.kind == "reasoning"),
        calls=calls,
    )


def stop_at(whole: ChoicePlan, stops: tuple[str, ...], *, include: bool) -> ChoicePlan:
    """Ends a plan at the first stop string in its content, holding back what may still become one.

    As in vLLM the last ``max(len(stop)) - 1`` characters are withheld until the next token decides, the tokens that
    spelt the stop string are counted, and its text is left out unless ``include``.
    """
    said, sent = "", 0
    held = max(len(stop) for stop in stops) - 1
    kept: list[Delta] = []
    for position, delta in enumerate(whole.deltas):
        if delta.kind != "content":
            kept.append(delta)
            continue
        used: tuple[str, ...] = ()
        for token in delta.tokens:
            said, used = said + token, (*used, token)
            hit = _first_stop(said, stops, since=len(said) - len(token) - held)
            if hit is not None:
                end = hit[0] + (len(hit[1]) if include else 0)
                kept.append(_text_delta("content", said[sent : max(end, sent)], used))
                return _stopped(kept, hit[1])
        last = position == len(whole.deltas) - 1
        until = len(said) if last else max(sent, len(said) - held)
        kept.append(_text_delta("content", said[sent:until], used))
        sent = until
    return ChoicePlan(tuple(kept), whole.finish_reason, None, whole.tokens, whole.reasoning_tokens, whole.calls)


def _stopped(kept: list[Delta], stop: str) -> ChoicePlan:
    tokens = sum(len(delta.tokens) for delta in kept)
    reasoning = sum(len(delta.tokens) for delta in kept if delta.kind == "reasoning")
    return ChoicePlan(tuple(kept), "stop", stop, tokens, reasoning)


def _first_stop(said: str, stops: tuple[str, ...], since: int) -> tuple[int, str] | None:
    """Where the earliest stop string begins, looking only from ``since`` on, and which one it is."""
    found = [(said.find(stop, max(0, since)), stop) for stop in stops]
    return min((hit for hit in found if hit[0] >= 0), default=None)


def _text_delta(kind: Kind, text: str, tokens: tuple[str, ...]) -> Delta:
    return Delta(kind, text, tokens, encode({kind: text}))


def _grouped(tokens: tuple[str, ...], size: int) -> list[tuple[str, ...]]:
    return [tokens[start : start + size] for start in range(0, len(tokens), size)]


def _repeated(deltas: tuple[Delta, ...], tokens: int) -> tuple[Delta, ...]:
    once = sum(len(delta.tokens) for delta in deltas)
    return _cut(deltas * -(-tokens // once), tokens)[0]


def _cut(deltas: tuple[Delta, ...], limit: int) -> tuple[tuple[Delta, ...], int, bool]:
    """(deltas up to ``limit`` tokens, their tokens, whether anything was cut off)."""
    tokens = 0
    for position, delta in enumerate(deltas):
        size = len(delta.tokens)
        if tokens + size > limit:
            part = delta.tokens[: limit - tokens]
            head = deltas[:position]
            return (*head, _shortened(delta, part)) if part else head, limit, True
        tokens += size
    return deltas, tokens, False


def _shortened(delta: Delta, tokens: tuple[str, ...]) -> Delta:
    """A delta with fewer tokens. A tool's name is never cut in the text that is sent, only in the count."""
    text = "".join(tokens)
    if delta.kind != "tool":
        return _text_delta(delta.kind, text, tokens)
    if not delta.text:
        return Delta("tool", "", tokens, delta.chat)
    shape = msgspec.json.decode(delta.chat)
    shape["tool_calls"][0]["function"]["arguments"] = text
    return Delta("tool", text, tokens, encode(shape))
