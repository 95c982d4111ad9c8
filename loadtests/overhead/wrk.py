"""`wrk` as client: one connection pool that keeps asking, latencies without coordinated pauses."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from loadtests.processes import Unmeasurable

_SCRIPT = Path(__file__).with_name("post.lua")


@dataclass(frozen=True, slots=True)
class WrkFigures:
    """What one run of wrk saw; latencies in milliseconds."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int

    @property
    def rps(self) -> float:
        """Answered requests per second."""
        return self.requests / self.seconds


def post(url: str, body: bytes, key: str, *, connections: int, seconds: float) -> WrkFigures:
    """POST `body` for `seconds` over `connections` connections from one thread. Raises `Unmeasurable` on any error."""
    argv = [_program(), "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency", "-s", str(_SCRIPT), url]
    env = {**os.environ, "BENCH_BODY": body.decode(), "BENCH_KEY": key}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=seconds + 30)
    line = next((line for line in done.stdout.splitlines() if line.startswith('{"requests"')), None)
    if done.returncode != 0 or line is None:
        raise Unmeasurable(f"wrk failed: {done.stdout[-500:]}{done.stderr[-500:]}")
    raw = json.loads(line)
    figures = WrkFigures(raw["requests"], raw["us"] / 1e6, raw["p50_us"] / 1e3, raw["p99_us"] / 1e3, raw["errors"])
    if figures.errors or not figures.requests:
        raise Unmeasurable(f"wrk saw {figures.errors} errors in {figures.requests} requests to {url}")
    return figures


def wrk_version() -> str:
    """For the report."""
    done = subprocess.run([_program(), "-v"], capture_output=True, text=True, check=False)
    found = re.search(r"wrk (\S+)", done.stdout + done.stderr)
    return found.group(1) if found else "unknown"


def _program() -> str:
    program = shutil.which("wrk")
    if program is None:
        raise Unmeasurable("wrk is not installed; on Debian: apt-get install nginx-light wrk")
    return program
