"""Reads server-sent events of an OpenAI-dialect stream, strictly."""

import json
from typing import Any


def events(body: bytes) -> list[str]:
    """The data of each event; fails on any other framing than ``data: …`` and an empty line."""
    text = body.decode()
    assert text.endswith("\n\n"), text[-80:]
    parts = text[:-2].split("\n\n")
    assert all(part.startswith("data: ") and "\n" not in part for part in parts), parts
    return [part.removeprefix("data: ") for part in parts]


def chunks(body: bytes) -> list[dict[str, Any]]:
    """The chunks of a complete stream, the last event being [DONE]."""
    *data, done = events(body)
    assert done == "[DONE]"
    return [json.loads(item) for item in data]


def text_of(items: list[dict[str, Any]], index: int = 0) -> str:
    """The text that a chat or completion stream said for one choice."""
    choices = [choice for item in items for choice in item["choices"] if choice["index"] == index]
    return "".join(choice["text"] if "text" in choice else choice["delta"].get("content") or "" for choice in choices)
