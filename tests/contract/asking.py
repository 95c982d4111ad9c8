"""Requests in the dialect that the gateway sends, and a look at what an engine is doing."""

import re
import uuid
from typing import Any

import httpx

from tests.contract.conftest import Upstream
from tests.serving.scripted.sse import chunks

USAGE: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
QUESTION = "Name the capital of Japan and say one thing about it."


def new_id() -> str:
    """An attempt id as the gateway makes them."""
    return f"{uuid.uuid4()}-1"


def chat_body(upstream: Upstream, question: str = QUESTION, **fields: Any) -> dict[str, Any]:
    """A chat request with a bounded, repeatable answer."""
    messages = [{"role": "user", "content": question}]
    return {"model": upstream.model, "messages": messages, "max_tokens": 16, "temperature": 0, **fields}


def completion_body(upstream: Upstream, prompt: Any = "The capital of Japan is", **fields: Any) -> dict[str, Any]:
    """A completion request with a bounded, repeatable answer."""
    return {"model": upstream.model, "prompt": prompt, "max_tokens": 16, "temperature": 0, **fields}


async def post(client: httpx.AsyncClient, body: dict[str, Any], attempt_id: str | None = None) -> httpx.Response:
    """Sends a chat or completion request, as its body tells, and reads the whole answer."""
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    return await client.post(path, json=body, headers={"x-request-id": attempt_id or new_id()})


async def answer(client: httpx.AsyncClient, body: dict[str, Any]) -> dict[str, Any]:
    """The answer of a request that must succeed and does not stream."""
    response = await post(client, body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def stream(client: httpx.AsyncClient, body: dict[str, Any]) -> list[dict[str, Any]]:
    """All chunks of a request that must succeed, with usage in every one."""
    response = await post(client, body | USAGE)
    assert response.status_code == 200, response.text
    return chunks(response.content)


async def engine_running_requests(root: str) -> int | None:
    """Requests that the engine is generating for now, by its own metrics; None where the ingress shows none.

    vLLM and the scripted engine show them at ``/metrics``; Ray Serve's ingress does not pass that path on.
    """
    async with httpx.AsyncClient(timeout=10, follow_redirects=True) as client:
        text = (await client.get(f"{root}/metrics")).text
    values = re.findall(r"^vllm:num_requests_running(?:\{[^}]*\})? ([0-9.]+)", text, re.MULTILINE)
    return int(sum(float(value) for value in values)) if values else None
