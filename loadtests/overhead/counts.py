"""Statements and round trips per request, counted in a gateway of its own so that counting costs the others nothing."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

from loadtests.overhead.constant import MODEL as CONSTANT_MODEL
from loadtests.overhead.counting import REQUESTS, VALKEY
from loadtests.overhead.rig import Rig, gateway_environment, gateway_process, wait_for_model
from loadtests.overhead.rounds import chat_body
from loadtests.overhead.wrk import post
from loadtests.stack import ROOT

# Statements of the process and not of a request: configuration, heartbeat, last uses of credentials.
BACKGROUND = ("read_epoch", "Configuration.", "CredentialUses.", "Heartbeat.", "Modes.")


@dataclass(frozen=True, slots=True)
class Counts:
    """Per request at one concurrency. `valkey_commands` counts those inside scripts too."""

    c: int
    requests: int
    postgresql: Mapping[str, float]
    valkey_round_trips: float
    valkey_commands: Mapping[str, float]
    background_per_s: float

    @property
    def postgresql_total(self) -> float:
        """Statements per request, all kinds; each is one round trip."""
        return sum(self.postgresql.values())


def count(rig: Rig, folder: Path, c: int, seconds: float) -> Counts:
    """Serve wrk for `seconds` with a counting gateway on the stack's own stores."""
    stack, written = rig.stack, folder / f"counts-{c}.json"
    env = gateway_environment(stack, stack.data_dir, stack.database_url, stack.valkey_url)
    valkey = Redis.from_url(stack.valkey_url)
    module, log = ["loadtests.overhead.counting"], folder / "gateway-counting.log"
    with gateway_process(ROOT, module, {**env, "COUNTS_FILE": str(written)}, log) as (base_url, _):
        wait_for_model(base_url, rig.key, CONSTANT_MODEL)
        before = _calls(valkey)
        seen = post(f"{base_url}/chat/completions", chat_body(CONSTANT_MODEL), rig.key, connections=c, seconds=seconds)
    after = _calls(valkey)
    counted: dict[str, int] = json.loads(written.read_text(encoding="utf-8"))
    requests = counted.pop(REQUESTS)
    trips = counted.pop(VALKEY)
    background = sum(n for name, n in counted.items() if name.startswith(BACKGROUND))
    return Counts(
        c=c,
        requests=requests,
        postgresql={name: n / requests for name, n in counted.items() if not name.startswith(BACKGROUND)},
        valkey_round_trips=trips / requests,
        valkey_commands={
            name: (after[name] - before.get(name, 0)) / requests
            for name in sorted(after)
            if (after[name] - before.get(name, 0)) / requests >= 0.01
        },
        background_per_s=background / seen.seconds,
    )


def _calls(valkey: "Redis") -> dict[str, int]:
    stats = valkey.info("commandstats")
    return {name.removeprefix("cmdstat_"): int(entry["calls"]) for name, entry in stats.items()}
