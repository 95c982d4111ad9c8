"""The exact count of a prompt, asked of the engine where a limit would refuse the upper bound. Never on the way of a
request that fits."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from gateway.edge.exchange import Exchange
from gateway.edge.parse import Call
from gateway.upstreams.client import UpstreamClient
from gateway.upstreams.types import Profile, Upstream

COUNT_S_MAX = 1.0
COUNTS_AT_ONCE_MAX = 8
PROMPTS_MAX = 8
# What an engine may write into the prompt for these is not known here.
_OPAQUE = frozenset({"suffix", "reasoning_effort", "response_format"})


class _Counted(msgspec.Struct):
    count: int


class PromptCounter:
    """Asks `tokenize_url` of the upstream, as vLLM and Ray Serve's OpenAI ingress offer it (`POST /tokenize`)."""

    def __init__(self, client: UpstreamClient) -> None:
        self._client = client
        self._places = asyncio.Semaphore(COUNTS_AT_ONCE_MAX)

    async def tighten(self, exchange: Exchange) -> bool:
        """Give `exchange` its exact prompt count in place of the bound; False where it is not known within a second or
        no smaller."""
        call, upstream = exchange.call, exchange.upstream
        assert call is not None and upstream is not None
        bodies = questions(call, upstream, chat=exchange.action == "chat")
        if not bodies:
            return False
        try:
            async with asyncio.timeout(COUNT_S_MAX), self._places:
                counts = await asyncio.gather(*(self._ask(upstream.profile.tokenize_url, body) for body in bodies))
        except TimeoutError:
            return False
        if any(count is None for count in counts):
            return False
        counted = sum(count for count in counts if count is not None) + media_tokens(call.body, upstream.profile)
        if counted >= call.prompt_bound:
            return False
        exchange.call = replace(call, prompt_bound=counted)
        return True

    async def _ask(self, url: str, body: dict[str, Any]) -> int | None:
        answer = await self._client.post_json(url, msgspec.json.encode(body))
        try:
            counted = None if answer is None else msgspec.json.decode(answer, type=_Counted).count
        except msgspec.DecodeError:
            return None
        return counted if counted is not None and counted > 0 else None


def questions(call: Call, upstream: Upstream, *, chat: bool) -> list[dict[str, Any]]:
    """The bodies for `/tokenize`, one per prompt; none where the count could leave something out."""
    body, profile = call.body, upstream.profile
    if not profile.tokenize_url or not _OPAQUE.isdisjoint(body) or not body.keys().isdisjoint(profile.extra_params):
        return []
    if chat:
        asked = {"model": upstream.served_model, "messages": [_without_images(one) for one in body["messages"]],
                 "add_generation_prompt": True}  # fmt: skip
        return [{**asked, "tools": body["tools"]} if body.get("tools") else asked]
    prompt = body["prompt"]
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if len(prompts) > PROMPTS_MAX or not all(isinstance(one, str) for one in prompts):
        return []  # token ids are counted exactly by the bound already
    return [{"model": upstream.served_model, "prompt": one} for one in prompts]


def media_tokens(body: Mapping[str, Any], profile: Profile) -> int:
    """What the images of a chat take at most, with the marks that a template writes around each."""
    images: int = sum(
        part.get("type") == "image_url"
        for message in body.get("messages", ())
        if isinstance(message.get("content"), list)
        for part in message["content"]
    )
    return images * (profile.image_tokens + profile.message_overhead_tokens)


def _without_images(message: dict[str, Any]) -> dict[str, Any]:
    """The message as text: the engine would decode every image only to count it as the profile does."""
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return {**message, "content": [part for part in content if part.get("type") != "image_url"]}
