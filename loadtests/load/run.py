"""One run: stack, relay with an engine of its own, tenants, Locust as a process of its own, then the books."""

import asyncio
import contextlib
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from loadtests.books import Entry, booked, recorded, unfinished
from loadtests.load.check import Account, Audit, Tokens, audit
from loadtests.load.mix import MODELS, SMALL
from loadtests.load.plan import PLAN_VARIABLE, TARGETS, Partner, Plan, Sample
from loadtests.overhead.rig import relayed, wait_for_model
from loadtests.processes import Unmeasurable, answers, free_port, running
from loadtests.seed import SeedEngine, SeedPlan, SeedTenant, seed
from loadtests.stack import ROOT, LocalStack, local_stack

LOCUSTFILE = ROOT / "loadtests" / "locustfile.py"
# One of them may use one model only, so that licences differ.
PARTNERS = {"load-hakone": MODELS, "load-usui": (SMALL,), "load-kiso": MODELS, "load-suzuka": MODELS}
REFUSED = {
    "insufficient_quota": SeedTenant("load-poor", [SMALL], tokens_month=1),
    "rate_limit_exceeded": SeedTenant("load-still", [SMALL], rpm=0),
}
TURN_S = 1.5  # shorter than any server's keep-alive, so that no connection dies of waiting for its turn
STOP_S_MAX = 15
_START_S_MAX = 30.0
_SETTLED_S_MAX = 10.0


@dataclass(frozen=True, slots=True)
class Ran:
    """What one run gave. `turns` counts both targets' turns; `complaint` is empty when Locust had none of its own."""

    samples: Sequence[Sample]
    turns: int
    audit: Audit
    complaint: str


def run(folder: Path, seconds: float, users: int) -> Ran:
    """Start everything in `folder`, drive it for about `seconds`, compare the books. Raises `Unmeasurable`."""
    turns = max(4, 2 * round(seconds / TURN_S / len(TARGETS)))
    with local_stack(folder / "data") as stack, _control(folder) as relay:
        plan = _planned(folder, stack, relay)
        complaint = _locust(folder, plan, turns * plan.turn_s, users)
        try:
            samples = msgspec.json.decode(Path(plan.samples).read_bytes(), type=list[Sample])
        except FileNotFoundError:
            raise Unmeasurable(f"Locust left no samples:\n{complaint}") from None
        entries = _settled(stack)
        shown: dict[Account, Tokens] = {}
        for partner in plan.partners:
            shown |= _shown(stack.base_url, partner)
        ours = [sample for sample in samples if sample.target == "sekisho"]
        return Ran(samples, turns, audit(entries, recorded(stack.record), ours, shown), complaint)


@contextlib.contextmanager
def _control(folder: Path) -> Iterator[str]:
    """The bare relay before an engine of its own, so that the gateway's engine records the gateway's requests only;
    gives its base URL."""
    port = free_port()
    argv = [sys.executable, "-m", "serving.scripted", "--port", str(port), "--record", str(folder / "relay.jsonl")]
    root, log = f"http://127.0.0.1:{port}", folder / "engine-relay.log"
    with (
        running(argv, ready=lambda: answers(f"{root}/health"), log=log, cwd=ROOT),
        relayed(folder, "load", f"{root}/v1") as relay,
    ):
        yield relay.base_url


def _planned(folder: Path, stack: LocalStack, relay: str) -> Plan:
    """Tenants and models are in the book and known to the gateway when this returns."""
    engine = stack.engine_root
    tenants = [*(SeedTenant(name, list(models)) for name, models in PARTNERS.items()), *REFUSED.values()]
    # `sekisho up` has named an upstream for the small model already.
    engines = [SeedEngine(model, f"{engine}/v1", f"{engine}/witness") for model in MODELS if model != SMALL]
    keys = asyncio.run(seed(SeedPlan(stack.database_url, str(stack.data_dir), tenants, engines)))
    for tenant in tenants:
        wait_for_model(stack.base_url, keys[tenant.tenant_id], tenant.models[-1])
    return Plan(
        sekisho=stack.base_url,
        relay=relay,
        partners=[Partner(name, keys[name], list(models)) for name, models in PARTNERS.items()],
        refused={code: keys[tenant.tenant_id] for code, tenant in REFUSED.items()},
        turn_s=TURN_S,
        samples=str(folder / "samples.json"),
    )


def _locust(folder: Path, plan: Plan, seconds: float, users: int) -> str:
    """Run Locust to its end; what it complains of, empty when all was well. It lets requests under way end."""
    plan_file = folder / "plan.json"
    plan_file.write_bytes(msgspec.json.encode(plan))
    argv = [
        sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary", "--loglevel", "WARNING",
        "--users", str(users), "--spawn-rate", str(users), "--run-time", f"{round(seconds)}s",
        "--stop-timeout", str(STOP_S_MAX),
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT), PLAN_VARIABLE: str(plan_file)}
    limit_s = _START_S_MAX + seconds + 2 * STOP_S_MAX
    try:
        done = subprocess.run(
            argv, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=limit_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise Unmeasurable(f"Locust did not end within {limit_s:g} s") from error
    return "" if done.returncode == 0 else f"Locust ended with {done.returncode}:\n{done.stdout[-3000:]}"


def _settled(stack: LocalStack) -> list[Entry]:
    """The journal once every row is final; after 10 s as it is, and the comparison will tell."""
    deadline = time.monotonic() + _SETTLED_S_MAX
    while True:
        entries = booked(stack)
        if not unfinished(entries) or time.monotonic() > deadline:
            return entries
        time.sleep(0.2)


def _shown(base_url: str, partner: Partner) -> dict[Account, Tokens]:
    """What a tenant sees of itself, per model that it may use; what used nothing (refusals) is left out. Raises
    `Unmeasurable`."""
    parts = urlsplit(base_url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    try:
        path = f"{parts.path}/usage?group_by=model,outcome"
        connection.request("GET", path, headers={"authorization": f"Bearer {partner.key}"})
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise Unmeasurable(f"GET /v1/usage of {partner.tenant_id}: {answer.status} {body[:300]!r}")
    totals = {(partner.tenant_id, model): Tokens() for model in partner.models}
    for row in json.loads(body)["rows"]:
        if row["prompt_tokens"] or row["completion_tokens"]:
            account = (partner.tenant_id, row["model"])
            before = totals.get(account, Tokens())
            totals[account] = Tokens(
                before.requests + row["requests"],
                before.prompt + row["prompt_tokens"],
                before.completion + row["completion_tokens"],
            )
    return totals
