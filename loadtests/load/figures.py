"""Latencies of the gateway beside those of the relay, from the samples of one run."""

from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.load.mix import KINDS
from loadtests.load.plan import TARGETS, WARM_TURNS, Sample
from loadtests.processes import Unmeasurable


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
    """A row per target and kind that was asked for; `rps` is per second of the target's own turns."""
    seconds = turn_s * (turns - WARM_TURNS) / len(TARGETS)
    kinds = (*KINDS, *sorted({sample.kind for sample in samples} - set(KINDS)))
    return [row for kind in kinds for target in TARGETS if (row := _row(samples, target, kind, seconds)) is not None]


def _row(samples: Sequence[Sample], target: str, kind: str, seconds: float) -> Row | None:
    chosen = [one for one in samples if (one.target, one.kind) == (target, kind) and one.turn >= WARM_TURNS]
    if not chosen:
        return None
    took = sorted(sample.took_ms for sample in chosen)
    errors = sum(bool(sample.failure) for sample in chosen)
    return Row(
        target, kind, len(took), errors, len(took) / seconds, _percentile(took, 0.5), _percentile(took, 0.9),
        _percentile(took, 0.99),
    )  # fmt: skip


def ratios_p99(measured: Sequence[Row]) -> dict[str, float]:
    """The gateway's p99 over the relay's, per kind of chat. Raises `Unmeasurable` where one was never asked."""
    p99 = {(row.what, row.kind): row.p99_ms for row in measured}
    missing = [f"{target} {kind}" for target in TARGETS for kind in KINDS if (target, kind) not in p99]
    if missing:
        raise Unmeasurable(f"nothing was asked of: {', '.join(missing)}; let it run longer (--seconds)")
    return {kind: round(p99["sekisho", kind] / p99["relay", kind], 3) for kind in KINDS}


def _percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[int(share * (len(ordered) - 1))]
