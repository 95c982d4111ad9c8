"""What a record says, and how it stands in a file: one JSON object per line."""

from __future__ import annotations

from typing import Literal

import msgspec

State = Literal["running", "finished", "aborted"]


class Witness(msgspec.Struct, frozen=True):
    """What one attempt used: sums over its prompts and choices, of tokens really generated.

    `cached_tokens`, `image_tokens` and `audio_tokens` are parts of `prompt_tokens`, `reasoning_tokens` of
    `completion_tokens`. Times are unix seconds. With several choices `finish_reason` is the first one's; `abort` when
    any was cut short.
    """

    attempt_id: str
    model: str
    state: State
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    finish_reason: str | None
    started_at: float
    ended_at: float | None
    image_tokens: int = 0
    audio_tokens: int = 0


class FileSize(msgspec.Struct, frozen=True):
    """A record file and the bytes of its whole lines: a reader that has come so far has read everything."""

    file: str
    size: int


class Page(msgspec.Struct, frozen=True):
    """Records of one file in the order of their ends. The next page begins at `next`; `more` says whether there is
    something in it already."""

    file: str
    next: int
    more: bool
    records: list[Witness]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Witness).decode


def line_of(witness: Witness) -> bytes:
    """The line that stands for a record."""
    return _encode(witness) + b"\n"


def record_of(line: bytes) -> Witness | None:
    """The record in a line; None for a line that a sudden death tore."""
    try:
        return _decode(line)
    except msgspec.DecodeError:
        return None


def head_of(attempt_id: str) -> bytes:
    """How the line of an attempt begins."""
    return b'{"attempt_id":' + _encode(attempt_id) + b","
