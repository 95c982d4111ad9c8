"""A steady caller as a process of its own, so that what the test does meanwhile cannot slow the one who measures.

`python -m tests.e2e.steady PORT KEY SECONDS` asks the same small question again and again and prints the latencies in
milliseconds as one JSON list. Any answer but 200 ends it with exit code 1.
"""

import asyncio
import http.client
import json
import math
import sys
import time
from collections.abc import Sequence

from tests.e2e.stack import Stack
from tests.e2e.tenants import Tenant
from tests.serving.scripted.process import REPOSITORY

PAUSE_S = 0.005


def main(port: int, key: str, seconds: float) -> int:
    """Ask for `seconds` seconds."""
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    body = json.dumps(
        {"model": "scripted-small", "messages": [{"role": "user", "content": "Who may pass?"}], "max_tokens": 4}
    )
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.connect()
    latencies: list[float] = []
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        began = time.perf_counter()
        connection.request("POST", "/v1/chat/completions", body, headers)
        answer = connection.getresponse()
        text = answer.read()
        latencies.append(1_000 * (time.perf_counter() - began))
        if answer.status != 200:
            print(f"{answer.status}: {text[:500]!r}", file=sys.stderr)
            return 1
        time.sleep(PAUSE_S)
    print(json.dumps(latencies))
    return 0


async def latencies_ms(stack: Stack, tenant: Tenant, seconds: float) -> list[float]:
    """The latencies of a steady caller that asks for `seconds` seconds; fails when it was refused once."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.e2e.steady", str(stack.port), tenant.key, str(seconds),
        cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0
    latencies: list[float] = json.loads(output)
    return latencies


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that `part` (0 to 1) of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3])))
