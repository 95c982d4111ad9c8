"""The engine's own record of an attempt, asked over HTTP where an upstream keeps one."""

import asyncio
from dataclasses import dataclass
from typing import Literal

import msgspec

from billing.types import Usage
from gateway.upstreams.client import UpstreamClient
from gateway.upstreams.types import Upstream

POLL_S = 0.05
QUERY_S_MAX = 1.0

State = Literal["running", "finished", "aborted", "unknown"]


class _Answer(msgspec.Struct):
    state: State
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """What the engine wrote down of one attempt."""

    state: State
    usage: Usage


class Witness:
    """Asks engines for their records."""

    def __init__(self, client: UpstreamClient) -> None:
        self._client = client

    async def ask(self, witness_url: str, attempt_id: str) -> EngineRecord | None:
        """The record of `attempt_id`, or None when the engine has none or does not answer."""
        body = await self._client.get_json(f"{witness_url}/{attempt_id}", QUERY_S_MAX)
        if body is None:
            return None
        try:
            answer = msgspec.json.decode(body, type=_Answer)
        except msgspec.DecodeError:
            return None
        usage = Usage(answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens, answer.reasoning_tokens)
        if not (0 <= usage.cached <= usage.prompt and 0 <= usage.reasoning <= usage.completion):
            return None  # a record that contradicts itself is none
        return EngineRecord(answer.state, usage)

    async def final(self, upstream: Upstream, attempt_id: str, wait_s: float) -> EngineRecord | None:
        """The record once the engine has ended the attempt, waiting `wait_s` seconds at most."""
        if upstream.witness_url is None:
            return None
        try:
            async with asyncio.timeout(wait_s):
                while True:
                    record = await self.ask(upstream.witness_url, attempt_id)
                    if record is not None and record.state in ("finished", "aborted"):
                        return record
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            return None
