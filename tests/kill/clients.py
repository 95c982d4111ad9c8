"""Clients that write down exactly what reached them, whatever becomes of the other side."""

import asyncio
import json
import random
import time
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp

from tests.kill.stack import PACED, QUICK, TENANTS

Kind = Literal["stream", "whole", "mixed"]
CALL_S_MAX = 30.0
RETRY_S = 0.05
QUICK_SHARE = 0.2
LEAVING_SHARE = 0.1
LEAVES_WHOLE_AFTER_S = (0.03, 0.15)


@dataclass(slots=True)
class Seen:
    """One call as its client saw it. `status` 0: not one byte of an answer came. `complete`: it came to its end."""

    tenant_id: str
    stream: bool
    sent_at: float
    request_id: str = ""
    status: int = 0
    body_bytes: int = 0
    complete: bool = False
    left: bool = False
    left_at: float = 0.0
    answered_at: float = 0.0
    usage: dict[str, Any] | None = None
    error: str = ""

    @property
    def delivered(self) -> bool:
        """Whether the first byte of the model's answer arrived: its status line counts."""
        return self.status == 200


class Callers:
    """Several clients of several tenants against one gateway, one call after the other each, until told to stop."""

    def __init__(self, url: str, keys: dict[str, str], seed: int, kind: Kind = "mixed", *, leave: bool = False) -> None:
        self._url, self._keys, self._kind, self._leave = url, keys, kind, leave
        self._random = random.Random(seed)
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.seen: list[Seen] = []

    def start(self, count: int) -> None:
        """Begin with `count` clients."""
        self._tasks = [asyncio.create_task(self._run(TENANTS[number % len(TENANTS)])) for number in range(count)]

    async def stop(self) -> list[Seen]:
        """Let every call end and return what was seen."""
        self._stop.set()
        await asyncio.gather(*self._tasks)
        return self.seen

    async def _run(self, tenant_id: str) -> None:
        timeout = aiohttp.ClientTimeout(total=CALL_S_MAX)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
            while not self._stop.is_set():
                call = Seen(tenant_id, self._streams(), time.time())
                self.seen.append(call)
                await self._call(session, call)
                if call.status != 200:
                    await asyncio.sleep(RETRY_S)

    def _streams(self) -> bool:
        return self._random.random() < 0.5 if self._kind == "mixed" else self._kind == "stream"

    async def _call(self, session: aiohttp.ClientSession, call: Seen) -> None:
        path, body = self._request(call.stream)
        leaves = self._leave and self._random.random() < LEAVING_SHARE
        leaves_after = self._random.randint(1, 5) if leaves else None
        headers = {"authorization": f"Bearer {self._keys[call.tenant_id]}"}
        if leaves and not call.stream:
            await self._leave_whole(session, call, path, {**body, "model": PACED}, headers)
            return
        try:
            async with session.post(self._url + path, json=body, headers=headers) as answer:
                call.request_id, call.status = answer.headers["x-request-id"], answer.status
                call.answered_at = time.time()
                if call.stream and call.status == 200:
                    await _read_stream(answer, call, leaves_after)
                else:
                    content = await answer.read()
                    call.body_bytes, call.complete = len(content), True
                    call.usage = json.loads(content).get("usage")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            call.error = type(error).__name__

    async def _leave_whole(
        self, session: aiohttp.ClientSession, call: Seen, path: str, body: dict[str, Any], headers: dict[str, str]
    ) -> None:
        """Ask for a whole answer and be gone before it can be there."""
        call.left = True
        try:
            async with (
                asyncio.timeout(self._random.uniform(*LEAVES_WHOLE_AFTER_S)),
                session.post(self._url + path, json=body, headers=headers) as answer,
            ):
                call.request_id, call.status = answer.headers["x-request-id"], answer.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            call.error = type(error).__name__
        call.left_at = time.time()

    def _request(self, stream: bool) -> tuple[str, dict[str, Any]]:
        pick = self._random
        body: dict[str, Any] = {
            "model": QUICK if pick.random() < QUICK_SHARE else PACED,
            "max_tokens": pick.randint(20, 60),
            "n": 3 if pick.random() < 0.2 else 1,
            "stream": stream,
        }
        if stream and pick.random() < 0.7:
            body["stream_options"] = {"include_usage": True}
        text = "関所とは何ですか。" * pick.randint(1, 8)
        if pick.random() < 0.3:
            return "/v1/completions", {**body, "prompt": text}
        return "/v1/chat/completions", {**body, "messages": [{"role": "user", "content": text}]}


async def _read_stream(answer: aiohttp.ClientResponse, call: Seen, leaves_after: int | None) -> None:
    pending = b""
    parts = 0
    async for part in answer.content.iter_any():
        call.body_bytes += len(part)
        *lines, pending = (pending + part).split(b"\n")
        for line in lines:
            _take_event(line, call)
        parts += 1
        if parts == leaves_after and not call.complete:
            call.left, call.left_at = True, time.time()
            answer.close()
            return


def _take_event(line: bytes, call: Seen) -> None:
    if line == b"data: [DONE]":
        call.complete = True
    elif line.startswith(b"data: "):
        event = json.loads(line[6:])
        call.usage = event.get("usage") or call.usage
        call.error = event["error"]["code"] if "error" in event else call.error
