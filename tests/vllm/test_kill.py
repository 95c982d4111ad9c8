"""Real vLLM and its gateway, ended with SIGKILL in the middle of streams: once the gateway, once vLLM, once both.

Where the upstream has a witness its record is what counts, to the token. Without one a stream whose gateway died is
recovered from its last checkpoint. Either way: nothing lost, nothing doubled, no token that was not generated.
"""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil
import pytest

from gateway.up.leftovers import INSTANCE_VARIABLE
from tests.e2e.stack import Stack, until
from tests.vllm.engine import VllmEngine

# Two of the three tests wait for Ray Serve and vLLM to come back.
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420)]

QUESTION = "Tell a long story about a traveller who passes every checkpoint of the old road."
MAX_TOKENS = 400
STREAMS = 4
SEEN_MIN = 8
BACK_S_MAX = 240.0
FINAL_S_MAX = 60.0
_CARD = "SELECT input_price, cached_input_price, output_price FROM rate_card WHERE rate_card_id = $1"


@dataclass
class Heard:
    """What a client got of one stream: chunks with text in them."""

    choices: int
    request_id: str = ""
    chunks: int = 0
    error: str = ""
    begun: asyncio.Event = field(default_factory=asyncio.Event)


async def listen(stack: Stack, model: str, choices: int) -> Heard:
    """Start a stream that would go on for long; returns when some of it has arrived."""
    heard = Heard(choices)
    task = asyncio.create_task(_listen(stack, model, heard))
    _LISTENING.add(task)
    task.add_done_callback(_LISTENING.discard)
    await asyncio.wait_for(heard.begun.wait(), BACK_S_MAX)
    return heard


_LISTENING: set["asyncio.Task[None]"] = set()


async def _listen(stack: Stack, model: str, heard: Heard) -> None:
    body = {
        "model": model, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": MAX_TOKENS,
        "n": heard.choices, "stream": True, "ignore_eos": True,
    }  # fmt: skip
    headers = {"authorization": f"Bearer {stack.key}"}
    with contextlib.suppress(httpx.TransportError):
        async with (
            httpx.AsyncClient(trust_env=False, timeout=120) as client,
            client.stream("POST", f"{stack.base_url}/chat/completions", json=body, headers=headers) as answer,
        ):
            assert answer.status_code == 200, await answer.aread()
            heard.request_id = answer.headers["x-request-id"]
            async for line in answer.aiter_lines():
                _take(line, heard)


def _take(line: str, heard: Heard) -> None:
    if not line.startswith("data: {"):
        return
    event = json.loads(line[6:])
    heard.error = event.get("error", {}).get("code", "")
    heard.chunks += any(choice["delta"].get("content") for choice in event.get("choices", ()))
    if heard.chunks >= SEEN_MIN:
        heard.begun.set()


def kill_gateway(stack: Stack) -> None:
    """The gateway alone; what it had under way at vLLM is aborted by that."""
    os.kill(stack.pid("gateway"), signal.SIGKILL)


def kill_engine(stack: Stack) -> None:
    """vLLM's own processes, and the process that the supervisor watches."""
    instance = stack.environment[INSTANCE_VARIABLE]
    for process in psutil.process_iter(["name", "environ"]):
        environ: Mapping[str, str] = process.info["environ"] or {}
        if process.info["name"].startswith("VLLM") and environ.get(INSTANCE_VARIABLE) == instance:
            process.kill()
    os.kill(stack.pid("engine"), signal.SIGKILL)


def kill_both(stack: Stack) -> None:
    """vLLM first, so that it cannot write anything down when its gateway goes."""
    kill_engine(stack)
    kill_gateway(stack)


async def serves_again(stack: Stack, model: str) -> None:
    """Returns once a request is answered by vLLM."""

    async def find() -> bool | None:
        await asyncio.sleep(0.5)
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
        headers = {"authorization": f"Bearer {stack.key}"}
        with contextlib.suppress(httpx.TransportError):
            async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
                answer = await client.post(f"{stack.base_url}/chat/completions", json=body, headers=headers)
                return True if answer.status_code == 200 else None
        return None

    await until(find, BACK_S_MAX, "vLLM does not serve again")


async def priced(stack: Stack, row: Mapping[str, Any]) -> int:
    """What the row's counts cost by its rate card."""
    (card,) = await stack.fetch(_CARD, row["rate_card_id"])
    fresh = row["prompt_tokens"] - row["cached_tokens"]
    return int(
        fresh * card["input_price"]
        + row["cached_tokens"] * card["cached_input_price"]
        + row["completion_tokens"] * card["output_price"]
    )


async def recorded(stack: Stack, model: str, attempt_id: str) -> Mapping[str, Any] | None:
    """The witness's final record, None where it has none or there is no witness."""
    (upstream,) = await stack.fetch("SELECT witness_url FROM upstream WHERE model = $1", model)
    if upstream["witness_url"] is None:
        return None
    record = await stack.witness(model, attempt_id)
    return record if record["state"] in ("finished", "aborted") else None


@pytest.mark.parametrize(
    ("kill", "states"),
    [
        (kill_gateway, {"recovered"}),
        (kill_engine, {"settled"}),
        (kill_both, {"recovered"}),
    ],
)
async def test_streams_cut_by_sigkill_are_booked_once_by_the_best_count_there_is(
    vllm_stack: Stack, vllm_engine: VllmEngine, kill: Callable[[Stack], None], states: set[str]
) -> None:
    model = vllm_engine.model
    heard = await asyncio.gather(*(listen(vllm_stack, model, 3 if one == 0 else 1) for one in range(STREAMS)))
    kill(vllm_stack)
    await asyncio.gather(*_LISTENING)
    if kill is not kill_gateway:
        await serves_again(vllm_stack, model)
    for one in heard:
        row = await vllm_stack.row(one.request_id, within_s=FINAL_S_MAX)
        assert row["state"] in states
        ledger = await vllm_stack.fetch(
            "SELECT sum(debit)::bigint AS debit, sum(credit)::bigint AS credit FROM ledger_entry WHERE request_id = $1",
            row["request_id"],
        )
        assert ledger == [{"debit": row["micro_yen"], "credit": row["micro_yen"]}]
        assert row["micro_yen"] == await priced(vllm_stack, row) > 0
        assert 0 < row["completion_tokens"] <= MAX_TOKENS * one.choices
        record = await recorded(vllm_stack, model, f"{one.request_id}-{row['attempt']}")
        if record is not None and kill is kill_gateway:
            assert row["usage_source"] == "witness"
            assert (row["prompt_tokens"], row["completion_tokens"]) == (
                record["prompt_tokens"], record["completion_tokens"],
            )  # fmt: skip
            assert record["completion_tokens"] >= one.chunks
        elif record is not None:  # written right before its end: never more is booked than it says
            assert row["completion_tokens"] <= record["completion_tokens"]
        else:
            assert row["usage_source"] == ("engine" if states == {"settled"} else "checkpoint")
    await _counters_agree(vllm_stack)


async def _counters_agree(stack: Stack) -> None:
    """Valkey has no hold left and has counted what the journal has."""
    (tenant,) = await stack.fetch(
        "SELECT DISTINCT tenant_id FROM journal WHERE settled_at IS NOT NULL AND micro_yen > 0"
    )
    use = await stack.no_holds(tenant["tenant_id"], 30)
    (sums,) = await stack.fetch(
        "SELECT sum(prompt_tokens + completion_tokens)::bigint AS tokens, sum(micro_yen)::bigint AS micro_yen"
        " FROM journal WHERE tenant_id = $1 AND period = (SELECT max(period) FROM journal WHERE tenant_id = $1)",
        tenant["tenant_id"],
    )
    assert (use["used_tokens"], use["used_micro_yen"]) == (sums["tokens"], sums["micro_yen"])
    assert use["held_tokens"] == use["held_micro_yen"] == 0
