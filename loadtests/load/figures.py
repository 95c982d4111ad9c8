"""Latencies of the gateway beside those of the relay, from the samples of one run."""

from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.load.mix import KINDS
from loadtests.load.plan import TARGETS, WARM_TURNS, Sample
from loadtests.processes import Unmeasurable

# The kinds whose time is the work on them, together: the more answers, the less one hiccup decides on the 99th
# percentile. Paced answers stay apart, since they take the engine's half second whoever stands before it.
QUICK, QUICK_KINDS = "quick", ("whole", "stream")
JUDGED = (QUICK, "paced")


@dataclass(frozen=True, slots=True)
class Row:
    """One target and one kind of request, warm turns left out. Times in milliseconds to the last byte."""

    what: str
    kind: str
    requests: int
    errors: int
    rps: float
    p50_ms: float
    p90_ms: float
    p99_ms: float


def rows(samples: Sequence[Sample], turn_s: float, turns: int) -> list[Row]:
    """A row per target and kind that was asked for, and one for the quick kinds together; `rps` is per second of the
    target's own turns."""
    seconds = turn_s * (turns - WARM_TURNS) / len(TARGETS)
    others = sorted({sample.kind for sample in samples} - set(KINDS))
    groups = {**{kind: (kind,) for kind in KINDS}, QUICK: QUICK_KINDS, **{kind: (kind,) for kind in others}}
    warm = [sample for sample in samples if sample.turn >= WARM_TURNS]
    made = []
    for name, kinds in groups.items():
        for target in TARGETS:
            chosen = [sample for sample in warm if sample.target == target and sample.kind in kinds]
            if chosen:
                made.append(_row(target, name, chosen, seconds))
    return made


def _row(target: str, name: str, chosen: Sequence[Sample], seconds: float) -> Row:
    took = sorted(sample.took_ms for sample in chosen)
    errors = sum(bool(sample.failure) for sample in chosen)
    p50, p90, p99 = (_percentile(took, share) for share in (0.5, 0.9, 0.99))
    return Row(target, name, len(took), errors, len(took) / seconds, p50, p90, p99)


def ratios_p99(measured: Sequence[Row]) -> dict[str, float]:
    """The gateway's p99 over the relay's, per kind of chat and for the quick ones together. Raises `Unmeasurable`
    where one was never asked."""
    p99 = {(row.what, row.kind): row.p99_ms for row in measured}
    missing = [f"{target} {kind}" for target in TARGETS for kind in (*KINDS, QUICK) if (target, kind) not in p99]
    if missing:
        raise Unmeasurable(f"nothing was asked of: {', '.join(missing)}; let it run longer (--seconds)")
    return {kind: round(p99["sekisho", kind] / p99["relay", kind], 3) for kind in (*KINDS, QUICK)}


def _percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[int(share * (len(ordered) - 1))]
