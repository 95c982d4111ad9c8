"""Alternating rounds: in each round every target is asked in turn, so that a noisy machine is noisy for all of them."""

import asyncio
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.overhead.constant import MODEL as CONSTANT_MODEL
from loadtests.overhead.rig import SHORT_MODEL, Rig, Target
from loadtests.overhead.streams import back_to_back, stream_request
from loadtests.overhead.wrk import post
from loadtests.processes import Unmeasurable, cpu_us

BODY_BYTES = 300
STREAM_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Sample:
    """One target in one round at one concurrency. Times in milliseconds, `cpu_us` per request (0 for direct)."""

    what: str
    c: int
    stream: bool
    body_bytes: int
    rps: float
    p50_ms: float
    p99_ms: float
    ttft_ms: float
    cpu_us: float


def chat_body(model: str, size: int = BODY_BYTES) -> bytes:
    """A chat request of exactly `size` bytes."""

    def body(text: str) -> bytes:
        return json.dumps(
            {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": STREAM_TOKENS}
        ).encode()

    text = "What does the clerk at the checkpoint write into the book? " * 10
    return body(text[: size - len(body(""))])


def whole_sample(target: Target, c: int, seconds: float) -> Sample:
    """Answers that do not stream, from the constant upstream, with wrk."""
    body = chat_body(CONSTANT_MODEL)
    before = 0.0 if target.pid is None else cpu_us(target.pid)
    seen = post(target.constant_url, body, target.key, connections=c, seconds=seconds)
    spent = 0.0 if target.pid is None else cpu_us(target.pid) - before
    return Sample(target.what, c, False, len(body), seen.rps, seen.p50_ms, seen.p99_ms, 0.0, spent / seen.requests)


def stream_sample(target: Target, c: int, seconds: float) -> Sample:
    """Streams from the scripted engine as fast as it can, with the raw client."""
    passed = target.what in ("direct", "relay")
    request = stream_request(target.stream_url, target.key, SHORT_MODEL, STREAM_TOKENS, passed_options=passed)
    before = 0.0 if target.stream_pid is None else cpu_us(target.stream_pid)
    heard = asyncio.run(back_to_back(target.stream_url, request, connections=c, seconds=seconds))
    spent = 0.0 if target.stream_pid is None else cpu_us(target.stream_pid) - before
    failed = [one.failure for one in heard if one.failure]
    if failed:
        raise Unmeasurable(f"{len(failed)} of {len(heard)} streams from {target.what} failed: {failed[0]}")
    took = sorted(one.total_ms for one in heard)
    return Sample(
        what=target.what, c=c, stream=True, body_bytes=len(request.partition(b"\r\n\r\n")[2]), rps=len(heard) / seconds,
        p50_ms=statistics.median(took), p99_ms=took[int(0.99 * (len(took) - 1))],
        ttft_ms=statistics.median(one.ttft_ms for one in heard), cpu_us=spent / len(heard),
    )  # fmt: skip


def play(rig: Rig, rounds: int, seconds: float) -> list[list[Sample]]:
    """All samples, round by round; a first short round warms everything up and is thrown away."""
    _round(rig, 1.0)
    return [_round(rig, seconds) for _ in range(rounds)]


def _round(rig: Rig, seconds: float) -> list[Sample]:
    samples = []
    for c in (1, 32):
        for target in rig.targets:
            direct = target.pid is None
            samples.append(whole_sample(target, c, 1.0 if direct else seconds))
    for c in (1, 32):
        samples += [stream_sample(target, c, 1.0) for target in rig.targets]
    return samples


def medians(rounds: Sequence[Sequence[Sample]]) -> list[Sample]:
    """The median round of every row."""
    rows = []
    for same in zip(*rounds, strict=True):
        first = same[0]
        middle = {
            name: statistics.median(getattr(sample, name) for sample in same)
            for name in ("rps", "p50_ms", "p99_ms", "ttft_ms", "cpu_us")
        }
        rows.append(Sample(first.what, first.c, first.stream, first.body_bytes, **middle))
    return rows


def per_round(rounds: Sequence[Sequence[Sample]], name: str, what: str, c: int, *, stream: bool) -> list[float]:
    """One figure of one row in each round."""
    return [
        float(getattr(sample, name))
        for samples in rounds
        for sample in samples
        if (sample.what, sample.c, sample.stream) == (what, c, stream)
    ]
