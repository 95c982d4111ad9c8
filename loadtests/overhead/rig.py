"""Everything a run needs, side by side: engine, constant upstream, relays, the gateway, and another revision of it."""

import contextlib
import http.client
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from loadtests.overhead.constant import MODEL as CONSTANT_MODEL
from loadtests.overhead.constant import constant_upstream
from loadtests.processes import Unmeasurable, answers, free_port, running
from loadtests.seed import SeedEngine, SeedPlan, SeedTenant
from loadtests.stack import ROOT, LocalStack, local_stack

TENANT = "bench"
SHORT_MODEL = "scripted-small"
SLOW_MODEL = "scripted-slow"
STREAM_MODELS = (SHORT_MODEL, SLOW_MODEL)
_SEED = ROOT / "loadtests" / "seed.py"
_KNOWN_S_MAX = 10.0


@dataclass(frozen=True, slots=True)
class Target:
    """One thing to ask. `pid` (`stream_pid` for streams) is the process whose CPU counts; None: the engine itself."""

    what: str
    constant_url: str
    stream_url: str
    key: str
    pid: int | None
    stream_pid: int | None


@dataclass(frozen=True, slots=True)
class Rig:
    """All targets of a run."""

    stack: LocalStack
    key: str
    targets: tuple[Target, ...]

    def target(self, what: str) -> Target:
        """The target of that name."""
        return next(target for target in self.targets if target.what == what)


@contextlib.contextmanager
def rig(folder: Path, base: str = "") -> Iterator[Rig]:
    """Start everything in `folder`; `base` names another revision of the gateway to measure in the same rounds."""
    with contextlib.ExitStack() as held:
        stack = held.enter_context(local_stack(folder / "data"))
        constant = held.enter_context(constant_upstream(folder / "nginx"))
        engine = f"{stack.engine_root}/v1"
        key = seeded(ROOT, stack.database_url, stack.data_dir, constant, stack.engine_root)
        wait_for_model(stack.base_url, key, CONSTANT_MODEL)
        relays = [held.enter_context(relayed(folder, name, url)) for name, url in (("c", constant), ("s", engine))]
        targets = [
            Target("direct", f"{constant}/chat/completions", f"{engine}/chat/completions", "none", None, None),
            # One relay process each for the constant upstream and the engine, so that its CPU is that of one job.
            Target("relay", relays[0].url, relays[1].url, "none", relays[0].pid, relays[1].pid),
            _gateway_target("sekisho", stack.base_url, key, stack.pid("gateway")),
        ]
        if base:
            targets.append(held.enter_context(_other_revision(folder, stack, base, constant)))
        yield Rig(stack, key, tuple(targets))


@dataclass(frozen=True, slots=True)
class Relay:
    """A bare relay that serves; `base_url` ends in `/v1`."""

    base_url: str
    pid: int

    @property
    def url(self) -> str:
        """Where chats go."""
        return f"{self.base_url}/chat/completions"


@contextlib.contextmanager
def relayed(folder: Path, name: str, upstream: str) -> Iterator[Relay]:
    """The control in front of `upstream` (ends in `/v1`), a process of its own; its log is in `folder`."""
    port = free_port()
    argv = [sys.executable, "-m", "loadtests.overhead.relay", "--port", str(port), "--upstream", upstream]
    root = f"http://127.0.0.1:{port}"
    with running(argv, ready=lambda: answers(f"{root}/healthz"), log=folder / f"relay-{name}.log", cwd=ROOT) as process:
        yield Relay(f"{root}/v1", process.pid)


def _gateway_target(what: str, base_url: str, key: str, pid: int) -> Target:
    url = f"{base_url}/chat/completions"
    return Target(what, url, url, key, pid, pid)


def seeded(tree: Path, database_url: str, data_dir: Path, constant: str, engine_root: str) -> str:
    """The bench tenant's rows, written by the code of `tree`; returns its key."""
    engines = [SeedEngine(CONSTANT_MODEL, constant)]
    # `sekisho up` has named an upstream for the short model already, in its own database only.
    known = [] if tree != ROOT else [SHORT_MODEL]
    engines += [
        SeedEngine(model, f"{engine_root}/v1", f"{engine_root}/witness")
        for model in STREAM_MODELS
        if model not in known
    ]
    tenant = SeedTenant(TENANT, [CONSTANT_MODEL, *STREAM_MODELS])
    plan = SeedPlan(database_url, str(data_dir), [tenant], engines)
    own = tree / "loadtests" / "seed.py"
    done = subprocess.run(
        [sys.executable, str(own if own.exists() else _SEED)], input=msgspec.json.encode(plan), capture_output=True,
        env={**os.environ, "PYTHONPATH": str(tree)}, check=False, timeout=60,
    )  # fmt: skip
    if done.returncode != 0:
        raise Unmeasurable(f"the bench tenant could not be written:\n{done.stderr.decode()[-800:]}")
    key: str = msgspec.json.decode(done.stdout)[TENANT]
    return key


def wait_for_model(base_url: str, key: str, model: str) -> None:
    """Until a gateway has read that `key` may use `model`. Raises `Unmeasurable` after 10 s."""
    parts = urlsplit(base_url)
    deadline = time.monotonic() + _KNOWN_S_MAX
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=2)
        connection.request("GET", f"{parts.path}/models/{model}", headers={"authorization": f"Bearer {key}"})
        if connection.getresponse().status == 200:
            return
        time.sleep(0.1)
    raise Unmeasurable(f"the gateway at {base_url} does not offer {model}")


def gateway_environment(stack: LocalStack, folder: Path, database_url: str, valkey_url: str) -> dict[str, str]:
    """The environment of one more gateway with stores and secrets of its own."""
    return {
        **stack.environment,
        "SEKISHO_DATA_DIR": str(folder),
        "SEKISHO_DATABASE_URL": database_url,
        "SEKISHO_VALKEY_URL": valkey_url,
    }


@contextlib.contextmanager
def gateway_process(tree: Path, module: Sequence[str], env: Mapping[str, str], log: Path) -> Iterator[tuple[str, int]]:
    """A gateway of the code in `tree`, started as `python -m <module> gateway`; gives its base URL and pid."""
    port, ops_port = free_port(), free_port()
    argv = [sys.executable, "-m", *module, "gateway", "--port", str(port), "--ops-port", str(ops_port)]
    with running(
        argv,
        ready=lambda: answers(f"http://127.0.0.1:{port}/readyz"),
        log=log,
        cwd=tree,
        env={**env, "PYTHONPATH": str(tree)},
    ) as process:
        yield f"http://127.0.0.1:{port}/v1", process.pid


@contextlib.contextmanager
def _other_revision(folder: Path, stack: LocalStack, base: str, constant: str) -> Iterator[Target]:
    """The gateway of revision `base`, from a git worktree, on a database and a Valkey database of its own."""
    tree, data_dir = folder / "base-tree", folder / "base-data"
    _git("worktree", "add", "--detach", str(tree), base)
    try:
        database_url = stack.database_url.replace("/sekisho?", "/sekisho_base?")
        stack.query("CREATE DATABASE sekisho_base")
        env = gateway_environment(stack, data_dir, database_url, f"{stack.valkey_url}?db=1")
        data_dir.mkdir()
        subprocess.run(
            [sys.executable, "-m", "gateway.cli", "migrate"], cwd=tree, env={**env, "PYTHONPATH": str(tree)},
            check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        key = seeded(tree, database_url, data_dir, constant, stack.engine_root)
        with gateway_process(tree, ["gateway.cli"], env, folder / "gateway-base.log") as (base_url, pid):
            yield _gateway_target(f"base {base}", base_url, key, pid)
    except subprocess.CalledProcessError as error:
        raise Unmeasurable(f"revision {base} cannot be migrated: {error.stderr.decode()[-500:]}") from error
    finally:
        _git("worktree", "remove", "--force", str(tree))


def _git(*arguments: str) -> None:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unmeasurable(f"git {' '.join(arguments)}: {done.stderr.strip()}")
