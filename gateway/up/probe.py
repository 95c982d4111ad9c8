"""What the supervisor asks over HTTP: is an engine there, is the gateway ready, does a first request succeed."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from gateway.up.failure import UpError

CHECK_S_MAX = 5.0
FIRST_TOKEN_S_MAX = 120.0
_FIRST_PROMPT = "Say hello."
_FIRST_TOKENS = 8


@asynccontextmanager
async def _session(total_s: float) -> AsyncIterator[aiohttp.ClientSession]:
    # trust_env off: a proxy for the outside world has no business with what runs on this machine
    timeout = aiohttp.ClientTimeout(total=total_s)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
        yield session


async def is_ok(url: str) -> bool:
    """True when GET `url` answers 200."""
    try:
        async with _session(CHECK_S_MAX) as session, session.get(url) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


async def listens(url: str) -> bool:
    """True when GET `url` is answered, by whatever status."""
    try:
        async with _session(CHECK_S_MAX) as session, session.get(url):
            return True
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


async def models_of(base_url: str) -> dict[str, int | None]:
    """The ids that GET `{base_url}/models` lists, with the context in tokens where the engine says it as vLLM does.

    Raises `ValueError` where the answer is no such list, `aiohttp.ClientError` or `TimeoutError` where there is none.
    """
    async with _session(CHECK_S_MAX) as session, session.get(f"{base_url}/models") as answer:
        if answer.status != 200:
            raise ValueError(f"it answers {answer.status}")
        try:
            cards = json.loads(await answer.read())["data"]
            return {str(card["id"]): card.get("max_model_len") for card in cards}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError("its answer is not a list of models") from error


async def serves(base_url: str, model: str) -> bool:
    """True when the engine at `base_url` lists `model`."""
    try:
        return model in await models_of(base_url)
    except (ValueError, aiohttp.ClientError, TimeoutError, OSError):
        return False


async def first_request(base_url: str, api_key: str, model: str) -> float:
    """Streams one short answer through the gateway and returns the seconds to its first content.

    Raises `UpError` when no content or no `[DONE]` arrives: then the stack does not serve, whatever its parts say.
    """
    body = {
        "model": model,
        "stream": True,
        "max_tokens": _FIRST_TOKENS,
        "messages": [{"role": "user", "content": _FIRST_PROMPT}],
    }
    began = time.monotonic()
    try:
        async with (
            _session(FIRST_TOKEN_S_MAX) as session,
            session.post(
                f"{base_url}/chat/completions", json=body, headers={"Authorization": f"Bearer {api_key}"}
            ) as answer,
        ):
            if answer.status != 200:
                raise _refused(answer.status, await answer.text())
            return await _first_content(answer.content) - began
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise UpError(
            f"a first request through the gateway failed ({error or type(error).__name__})",
            "see logs/gateway.log and the engine's log in the data folder",
        ) from error


async def _first_content(lines: aiohttp.StreamReader) -> float:
    """When the first content came (`time.monotonic()`); reads the stream to its end."""
    first, last = None, ""
    async for raw in lines:
        line = raw.decode("utf-8", "replace").strip()
        if not line.startswith("data: "):
            continue
        last = line.removeprefix("data: ")
        if first is None and last != "[DONE]" and _has_content(last):
            first = time.monotonic()
    if first is None or last != "[DONE]":
        raise UpError(
            f"a first request through the gateway brought no whole answer (it ended with {last[:200]!r})",
            "see logs/gateway.log and the engine's log in the data folder",
        )
    return first


def _has_content(event: str) -> bool:
    try:
        choices = json.loads(event).get("choices") or []
    except (ValueError, AttributeError):
        return False
    deltas = [choice.get("delta", {}) for choice in choices]
    return any(delta.get("content") or delta.get("reasoning_content") or delta.get("tool_calls") for delta in deltas)


def _refused(status: int, text: str) -> UpError:
    try:
        error = json.loads(text)["error"]
        said = f"{error['code']}: {error['message']}"
    except (ValueError, KeyError, TypeError):
        said = text[:200]
    return UpError(f"a first request through the gateway was answered {status} ({said})", "see logs/gateway.log")
