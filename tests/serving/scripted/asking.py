"""Requests to the scripted engine, as short as tests want them."""

import asyncio
import itertools
import time
from typing import Any

import httpx

USAGE: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
_numbers = itertools.count(1)


def new_id() -> str:
    """An attempt id that no other test uses."""
    return f"test{next(_numbers)}-1"


def chat_body(model: str, **fields: Any) -> dict[str, Any]:
    """A chat request of one short message."""
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}


async def chat(client: httpx.AsyncClient, model: str, attempt_id: str | None = None, **fields: Any) -> httpx.Response:
    """One chat request, its body read whole."""
    headers = {"x-request-id": attempt_id or new_id()}
    return await client.post("/v1/chat/completions", json=chat_body(model, **fields), headers=headers)


async def witness(client: httpx.AsyncClient, attempt_id: str) -> dict[str, Any]:
    """The engine's record of an attempt."""
    found: dict[str, Any] = (await client.get(f"/witness/{attempt_id}")).json()
    return found


async def ended(client: httpx.AsyncClient, attempt_id: str, within_s: float = 2.0) -> dict[str, Any]:
    """The record once the attempt no longer runs; fails when it still does after ``within_s``."""
    deadline = time.monotonic() + within_s
    while True:
        found = await witness(client, attempt_id)
        if found["state"] in ("finished", "aborted"):
            return found
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.01)
