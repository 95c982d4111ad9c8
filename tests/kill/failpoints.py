"""Starts the real gateway, worker or scripted engine, and ends it, or a store, with SIGKILL at one chosen instant.

    SEKISHO_FAILPOINT=<point>:<nth>[:stream|whole|mixed[:postgresql|valkey]] SEKISHO_FAILPOINT_LOG=<file> \
        python -m tests.kill.failpoints gateway|worker|engine ARGUMENTS

The product has no hook for this: its own functions are wrapped here, by name, so that a function that was renamed ends
the process at its start instead of leaving a point that never fires. Without SEKISHO_FAILPOINT nothing is wrapped but
the noting of the instance's id. `nth` counts the requests that come to the point; with `stream` or `whole` only those
of that kind (requests whose kind is not known yet count always). With a store named it is the store that dies, while
this process goes on. The log gets one JSON line when a gateway starts and one at the death: {"pid", "point", "kind",
"request_id", "at" (unix seconds), "victim" (a store)}.

Every fourth settlement is delivered again, at once and a moment later, and every fourth hold is ended twice: what a
lost answer, a retry or a replay does. The log gets a line {"duplicate": <request id>} for each.
"""

import asyncio
import inspect
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from tests.kill.stores import kill_store

VARIABLE = "SEKISHO_FAILPOINT"
LOG_VARIABLE = "SEKISHO_FAILPOINT_LOG"
TO_KERNEL_S = 0.05  # uvloop hands what was written to the kernel only at the end of the loop's turn
MID_CHUNK = 6
MID_ANSWER_S = 0.1
MID_TOKENS = 5
AGAIN_EVERY = 4
AGAIN_S = 0.7

_exchange: ContextVar[Any] = ContextVar("exchange")
_settling: ContextVar[str] = ContextVar("settling", default="")


class Trip:
    """The one armed point."""

    def __init__(self, armed: str, log: Path) -> None:
        point, nth, kind, store = [*armed.split(":"), "", "", ""][:4]
        self.point, self._left, self._store = point, int(nth or 1), store
        self._kind = kind if kind in ("stream", "whole") else ""
        self._log = log

    def note(self, **line: object) -> None:
        """One line in the log, in the kernel's hands when this returns."""
        descriptor = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, json.dumps({"pid": os.getpid(), **line}).encode() + b"\n")
        os.close(descriptor)

    def passed(self, request_id: str, kind: str) -> None:
        """A request has come to the point; ends this process when it is the chosen one."""
        if self._kind and kind and kind != self._kind:
            return
        self._left -= 1
        if self._left != 0:
            return
        line = {"point": self.point, "kind": self._kind or kind, "request_id": request_id, "at": time.time()}
        if not self._store:
            self.note(**line)
            os.kill(os.getpid(), signal.SIGKILL)
        pid = kill_store(self._log.parent, self._store)
        if pid is None:  # somebody else has just killed it: the next one, then
            self._left = 1
        else:
            self.note(**line, victim=self._store, pid=pid)

    def exchange(self, exchange: Any) -> None:
        """The same for an exchange of the gateway."""
        call = exchange.call
        self.passed(exchange.request_id, "" if call is None else "stream" if call.stream else "whole")


Hook = Callable[..., Awaitable[None] | None]


def _around(owner: Any, name: str, *, before: Hook | None = None, after: Hook | None = None) -> None:
    """Replaces `owner.name`; the hooks get its arguments."""
    original = getattr(owner, name)

    async def call(hook: Hook | None, arguments: tuple[Any, ...]) -> None:
        waits = None if hook is None else hook(*arguments)
        if waits is not None:
            await waits

    if inspect.iscoroutinefunction(original):

        async def wrapped(*arguments: Any, **options: Any) -> Any:
            await call(before, arguments)
            result = await original(*arguments, **options)
            await call(after, arguments)
            return result

        setattr(owner, name, wrapped)
        return

    def wrapped_sync(*arguments: Any, **options: Any) -> Any:
        if before is not None:
            before(*arguments)
        result = original(*arguments, **options)
        if after is not None:
            after(*arguments)
        return result

    setattr(owner, name, wrapped_sync)


def _of_exchange(trip: Trip) -> Hook:
    return lambda _self, exchange, *_: trip.exchange(exchange)


def _after_identify(trip: Trip) -> None:
    from gateway.edge.pipeline import Pipeline

    _around(Pipeline, "identify", after=_of_exchange(trip))


def _after_claim(trip: Trip) -> None:
    from gateway.edge.pipeline import Pipeline

    _around(Pipeline, "claim", after=_of_exchange(trip))


def _after_reserve(trip: Trip) -> None:
    from gateway.edge.pipeline import Pipeline

    _around(Pipeline, "reserve", after=_of_exchange(trip))


def _after_open_queued(trip: Trip) -> None:
    from gateway.edge.pipeline import Pipeline

    _around(Pipeline, "open", after=_of_exchange(trip))


def _after_open_durable(trip: Trip) -> None:
    from gateway.edge.pipeline import Pipeline

    def durable(_self: Any, exchange: Any) -> None:
        exchange.opened.add_done_callback(lambda _: trip.exchange(exchange))

    _around(Pipeline, "open", after=durable)


def _after_dispatch(trip: Trip) -> None:
    from gateway.edge.dispatch import Dispatcher

    _around(Dispatcher, "dispatch", after=_of_exchange(trip))


def _before_first_byte(trip: Trip) -> None:
    """The answer has begun and its mark has not been asked for."""
    from gateway.edge.deliver import Delivery

    _around(Delivery, "_mark", before=_of_exchange(trip))


def _after_mark_before_write(trip: Trip) -> None:
    from gateway.edge.inbound import Inbound

    def starting(_self: Any, status: int, *_: Any) -> None:
        if status == 200 and _exchange.get().call is not None:
            trip.exchange(_exchange.get())

    _around(Inbound, "start", before=starting)


def _after_first_byte(trip: Trip) -> None:
    from gateway.edge.inbound import Inbound

    begun: set[str] = set()

    def written(*_: Any) -> None:
        exchange = _exchange.get()
        if exchange.call is None or exchange.first_byte_at is None or exchange.request_id in begun:
            return
        begun.add(exchange.request_id)
        asyncio.get_running_loop().call_later(TO_KERNEL_S, trip.exchange, exchange)

    _around(Inbound, "write", after=written)
    _around(Inbound, "end", after=written)


def _mid_stream(trip: Trip) -> None:
    """A stream: between two of its chunks. A whole answer: while the engine is at it."""
    from gateway.edge.deliver import Delivery
    from gateway.edge.dispatch import Dispatcher

    chunks: Counter[str] = Counter()

    def waiting(*_: Any) -> None:
        exchange = _exchange.get()
        chunks[exchange.request_id] += 1
        if chunks[exchange.request_id] == MID_CHUNK:
            trip.exchange(exchange)

    def dispatching(_self: Any, exchange: Any, *_: Any) -> None:
        if not exchange.call.stream and exchange.model == "kill-paced":
            asyncio.get_running_loop().call_later(MID_ANSWER_S, trip.exchange, exchange)

    _around(Delivery, "_next", before=waiting)
    _around(Dispatcher, "dispatch", before=dispatching)


def _before_settle(trip: Trip) -> None:
    from gateway.edge.settle import Settler

    _around(Settler, "_store", before=_of_exchange(trip))


def _after_settle_before_release(trip: Trip) -> None:
    from gateway.edge.settle import Settler

    def releasing(_self: Any, exchange: Any, *_: Any) -> None:
        if exchange.opened is not None:
            trip.exchange(exchange)

    _around(Settler, "_release", before=releasing)


def _after_release(trip: Trip) -> None:
    from gateway.edge.settle import Settler

    def released(_self: Any, exchange: Any, *_: Any) -> None:
        if exchange.opened is not None:
            trip.exchange(exchange)

    _around(Settler, "_release", after=released)


def _worker_before_settle(trip: Trip) -> None:
    from gateway.work.recover import Recovery

    _around(Recovery, "_settle", before=lambda _self, row, *_: trip.passed(row.request_id, ""))


def _worker_between_settle_and_release(trip: Trip) -> None:
    """The hold of a recovered row is about to be ended; the row is final by now."""
    from gateway.limits.holds import Holds
    from gateway.work.recover import Recovery

    def settling(_self: Any, row: Any, *_: Any) -> None:
        _settling.set(row.request_id)

    def releasing(_self: Any, release: Any) -> None:
        if release.request_id == _settling.get():
            trip.passed(release.request_id, "")

    _around(Recovery, "_settle", before=settling)
    _around(Holds, "release", before=releasing)


def _worker_mid_sweep(trip: Trip) -> None:
    """A sweep has ended some of its holds and not the others."""
    from gateway.limits.holds import Holds
    from gateway.work.sweep import Sweep

    def sweeping(*_: Any) -> None:
        _settling.set("sweep")

    def swept(*_: Any) -> None:
        _settling.set("")

    def released(_self: Any, release: Any) -> None:
        if _settling.get() == "sweep":
            trip.passed(release.request_id, "")

    _around(Sweep, "_end_holds", before=sweeping, after=swept)
    _around(Holds, "release", after=released)


def _engine_before_first_byte(trip: Trip) -> None:
    from serving.scripted import answer
    from serving.scripted.stream import Stream

    _around(Stream, "play", before=lambda self, *_: trip.passed(self._running.attempt_id, "stream"))
    _around(answer, "generate_whole", before=lambda _plans, running, *_: trip.passed(running.attempt_id, "whole"))


def _engine_mid_stream(trip: Trip) -> None:
    from serving.scripted import whole
    from serving.scripted.stream import Stream

    def generating(self: Any) -> None:
        if self._running.completion_tokens == MID_TOKENS:
            trip.passed(self._running.attempt_id, "stream")

    async def waiting(*_: Any) -> None:
        # The only sleep of that module is the one in which a whole answer is generated.
        await asyncio.sleep(MID_ANSWER_S)
        trip.passed("", "whole")

    _around(Stream, "_generate", before=generating)
    _around(_module_asyncio(whole), "sleep", before=waiting)


def _module_asyncio(module: Any) -> Any:
    """Gives `module` an `asyncio` of its own, so that wrapping it changes nobody else's."""

    class Own:
        sleep = staticmethod(asyncio.sleep)
        get_running_loop = staticmethod(asyncio.get_running_loop)
        CancelledError = asyncio.CancelledError

    module.asyncio = Own
    return Own


def _engine_after_record(trip: Trip) -> None:
    """The engine has written its record and not sent the end of its answer."""
    from serving.scripted.record import Record
    from serving.scripted.stream import Stream

    streams: set[str] = set()

    def ended(_self: Any, running: Any, *_: Any) -> None:
        trip.passed(running.attempt_id, "stream" if running.attempt_id in streams else "whole")

    _around(Stream, "play", before=lambda self, *_: streams.add(self._running.attempt_id))
    _around(Record, "finish", after=ended)


GATEWAY_POINTS: Mapping[str, Callable[[Trip], None]] = {
    "after_identify": _after_identify,
    "after_claim": _after_claim,
    "after_reserve": _after_reserve,
    "after_open_queued": _after_open_queued,
    "after_open_durable": _after_open_durable,
    "after_dispatch": _after_dispatch,
    "before_first_byte": _before_first_byte,
    "after_mark_before_write": _after_mark_before_write,
    "after_first_byte": _after_first_byte,
    "mid_stream": _mid_stream,
    "before_settle": _before_settle,
    "after_settle_before_release": _after_settle_before_release,
    "after_release": _after_release,
}
WORKER_POINTS: Mapping[str, Callable[[Trip], None]] = {
    "worker_before_settle": _worker_before_settle,
    "worker_between_settle_and_release": _worker_between_settle_and_release,
    "worker_mid_sweep": _worker_mid_sweep,
}
ENGINE_POINTS: Mapping[str, Callable[[Trip], None]] = {
    "engine_before_first_byte": _engine_before_first_byte,
    "engine_mid_stream": _engine_mid_stream,
    "engine_after_record": _engine_after_record,
}


def _watch_gateways(trip: Trip) -> None:
    from gateway.edge.pipeline import Pipeline
    from gateway.process import Gateway

    _around(Gateway, "__init__", after=lambda self, *_: trip.note(instance=self.instance_id))
    _around(Pipeline, "identify", before=lambda _self, exchange, *_: _exchange.set(exchange) and None)


def _deliver_twice(trip: Trip) -> None:
    from billing.journal import Journal
    from gateway.limits.holds import Holds

    settled, released = Counter[str](), Counter[str]()

    def made(journal: Any, *_: Any) -> None:
        put = journal.settlements.put

        def again(settlement: Any) -> None:
            trip.note(duplicate=settlement.request_id)
            put(settlement)

        def put_twice(settlement: Any) -> Any:
            stored = put(settlement)
            settled["all"] += 1
            if settled["all"] % AGAIN_EVERY == 0:
                again(settlement)
                asyncio.get_running_loop().call_later(AGAIN_S, again, settlement)
            return stored

        journal.settlements.put = put_twice

    async def ended(holds: Any, release: Any) -> None:
        released["all"] += 1
        if released["all"] % AGAIN_EVERY == 0:
            trip.note(duplicate=release.request_id)
            await original(holds, release)

    original = Holds.release
    _around(Journal, "__init__", after=made)
    _around(Holds, "release", after=ended)


def main(arguments: list[str]) -> int:
    """Runs the process named by the first argument with the others as its own."""
    trip = Trip(os.environ.get(VARIABLE, ""), Path(os.environ[LOG_VARIABLE]))
    name, *rest = arguments
    points = {"gateway": GATEWAY_POINTS, "worker": WORKER_POINTS, "engine": ENGINE_POINTS}[name]
    if name == "gateway":
        _watch_gateways(trip)
    if name != "engine":
        _deliver_twice(trip)
    if trip.point:
        points[trip.point](trip)
    if name == "engine":
        from serving.scripted.__main__ import main as engine

        return engine(rest)
    from gateway.cli import main as sekisho

    return sekisho([name, *rest])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
