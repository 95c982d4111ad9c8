"""What the runner and its Locust process tell each other: the plan before the run, one sample per answer after it."""

import os
from pathlib import Path
from typing import Literal

import msgspec

PLAN_VARIABLE = "SEKISHO_LOAD_PLAN"
Target = Literal["relay", "sekisho"]
TARGETS: tuple[Target, ...] = ("relay", "sekisho")
WARM_TURNS = 2
"""One turn of each target opens its connections and is left out of the latencies, not out of the books."""


class Partner(msgspec.Struct, frozen=True):
    """A tenant that is served: its key, and exactly the models that it may use."""

    tenant_id: str
    key: str
    models: list[str]


class Plan(msgspec.Struct, frozen=True):
    """Where to ask and as whom. Base URLs end in `/v1`; `refused` maps an error code to the key that always meets it;
    the targets take turns of `turn_s` seconds; samples go to the file `samples`."""

    sekisho: str
    relay: str
    partners: list[Partner]
    refused: dict[str, str]
    turn_s: float
    samples: str

    def target(self, elapsed_s: float) -> tuple[Target, int]:
        """Whose turn it is `elapsed_s` seconds after the start, and its number."""
        turn = int(elapsed_s / self.turn_s)
        return TARGETS[turn % len(TARGETS)], turn


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One answer. `took_ms` is the time to its last byte, `turn` the turn in which it was asked for; token counts are
    those that the client was told (None: it did not ask). `failure` is empty for what was expected, refusals too."""

    target: Target
    kind: str
    turn: int
    took_ms: float
    tenant_id: str = ""
    model: str = ""
    request_id: str = ""
    refused: bool = False
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    failure: str = ""


def plan_of_environment() -> Plan:
    """The plan that the runner has left for this process. Raises `RuntimeError` where there is none."""
    path = os.environ.get(PLAN_VARIABLE)
    if path is None:
        raise RuntimeError(f"{PLAN_VARIABLE} names no plan; run python -m loadtests.load, which writes one")
    return msgspec.json.decode(Path(path).read_bytes(), type=Plan)
