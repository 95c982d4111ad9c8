"""Five hundred streams at 5 tokens per second through one gateway process, and the same from the engine itself.

The gap of a chunk is the time since the chunk before it, as the client hears it. *Added against direct* is the 99th
percentile of the gaps through the gateway minus that of the gaps from the engine in the same run; *added against the
pace* is the 99th percentile of the gaps through the gateway minus the 200 ms that the engine keeps. What the journal
booked is compared with what the engine itself recorded, request by request.
"""

import asyncio
import random
import time
from dataclasses import dataclass

from loadtests.books import Entry, booked, compare, recorded
from loadtests.overhead.rig import SLOW_MODEL, TENANT, Rig, Target
from loadtests.overhead.streams import Heard, side_by_side, stream_request
from loadtests.processes import cpu_us, rss_peak_mb
from loadtests.report import Verdict

STREAMS = 500
TOKENS_PER_S = 5
PACE_MS = 1000 / TOKENS_PER_S
STARTS_WITHIN_S = 2.0  # clients do not begin in the same millisecond: phases spread over ten tokens' time
DIRECT_S = 20
_LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Crowd:
    """What 500 streams saw; times in milliseconds, memory in MB of 10^6 bytes."""

    streams: int
    seconds: int
    failed: int
    first_failure: str
    tokens_recorded: int
    tokens_booked: int
    tokens_differing: int
    differences: int
    first_difference: str
    gap_p50_ms: float
    gap_p99_ms: float
    direct_gap_p99_ms: float
    added_gap_p99_ms: float
    added_to_pace_p99_ms: float
    gap_max_ms: float
    ttft_p99_ms: float
    cpu_share: float
    rss_mb: float

    def verdicts(self) -> list[Verdict]:
        """Against the targets."""
        return [
            Verdict(f"{self.streams} streams for {self.seconds} s: failed", self.failed, 0, "streams"),
            Verdict("requests that journal and engine's record do not count alike", self.differences, 0, "requests"),
            Verdict("added gap p99, against direct in the same run", self.added_gap_p99_ms, 20, "ms"),
            Verdict("added gap p99, against the engine's pace", self.added_to_pace_p99_ms, 20, "ms"),
            Verdict("gateway's largest resident set", self.rss_mb, 400, "MB"),
        ]

    def lines(self) -> list[str]:
        """For people."""
        failure = f", first failure: {self.first_failure}" if self.first_failure else ""
        gaps = f"gap p50 {self.gap_p50_ms:.1f}, p99 {self.gap_p99_ms:.1f}, max {self.gap_max_ms:.1f} ms"
        control = f"direct p99 {self.direct_gap_p99_ms:.1f} ms, the engine's pace {PACE_MS:g} ms"
        counted = f"engine recorded {self.tokens_recorded} tokens, journal booked {self.tokens_booked}"
        counted += f", {self.tokens_differing} apart"
        difference = f"; first difference: {self.first_difference}" if self.first_difference else ""
        cost = f"gateway {self.cpu_share:.0%} of a core, {self.rss_mb:.0f} MB"
        return [
            f"{self.streams} streams for {self.seconds} s{failure}",
            f"  {gaps}; {control}",
            f"  first token p99 {self.ttft_p99_ms:.1f} ms; {cost}",
            f"  {counted}{difference}",
        ]


def crowd(rig: Rig, seconds: int) -> Crowd:
    """Run both; blocks for `seconds` plus about 25 s."""
    gateway, direct = rig.target("sekisho"), rig.target("direct")
    assert gateway.stream_pid is not None
    control = _listen(direct, min(DIRECT_S, seconds))
    earlier = {entry.request_id for entry in _booked(rig)}
    record_end = rig.stack.record.stat().st_size  # the control's attempts lie before it
    cpu, began = cpu_us(gateway.stream_pid), time.monotonic()
    heard = _listen(gateway, seconds)
    cpu_share = (cpu_us(gateway.stream_pid) - cpu) / 1e6 / (time.monotonic() - began)
    books = compare(
        [entry for entry in _booked(rig) if entry.request_id not in earlier], recorded(rig.stack.record, record_end)
    )
    gaps, control_gaps = _gaps(heard), _gaps(control)
    failures = [one.failure for one in heard if one.failure]
    return Crowd(
        streams=STREAMS,
        seconds=seconds,
        failed=len(failures),
        first_failure=failures[0] if failures else "",
        tokens_recorded=books.recorded_tokens,
        tokens_booked=books.booked_tokens,
        tokens_differing=books.differing_tokens,
        differences=len(books.findings),
        first_difference=books.findings[0] if books.findings else "",
        gap_p50_ms=_percentile(gaps, 0.5),
        gap_p99_ms=_percentile(gaps, 0.99),
        direct_gap_p99_ms=_percentile(control_gaps, 0.99),
        added_gap_p99_ms=_percentile(gaps, 0.99) - _percentile(control_gaps, 0.99),
        added_to_pace_p99_ms=_percentile(gaps, 0.99) - PACE_MS,
        gap_max_ms=gaps[-1] if gaps else 0.0,
        ttft_p99_ms=_percentile(sorted(one.ttft_ms for one in heard if one.arrivals), 0.99),
        cpu_share=cpu_share,
        rss_mb=rss_peak_mb(gateway.stream_pid),
    )


def _listen(target: Target, seconds: int) -> list[Heard]:
    tokens = seconds * TOKENS_PER_S
    passed = target.what == "direct"
    request = stream_request(target.stream_url, target.key, SLOW_MODEL, tokens, passed_options=passed)
    order = random.Random(STREAMS)  # the same starts in every run
    starts = [order.uniform(0, STARTS_WITHIN_S) for _ in range(STREAMS)]
    return asyncio.run(side_by_side(target.stream_url, request, starts_s=starts, limit_s=seconds + _LIMIT_S))


def _booked(rig: Rig) -> list[Entry]:
    """Rows of the slow model; a stream's end is sent only when it is settled."""
    return [entry for entry in booked(rig.stack, SLOW_MODEL) if entry.tenant_id == TENANT]


def _gaps(heard: list[Heard]) -> list[float]:
    return sorted(gap for one in heard for gap in one.gaps_ms())


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("inf")
