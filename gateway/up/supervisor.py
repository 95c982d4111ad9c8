"""Starts children, restarts those that may come back, and stops all of them in order, within a bound."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

from gateway.up import leftovers
from gateway.up.failure import UpError
from gateway.up.leftovers import Record
from gateway.up.processes import Child, Command, describe_exit, died, until_ready
from gateway.up.steps import Steps

RESTARTS_MAX = 5
RESTARTS_WITHIN_S = 60.0
_DELAYS_S = (0.2, 0.5, 1.0, 2.0, 4.0)

Check = Callable[[], Awaitable[bool]]


class Supervisor:
    """Owns the children of one stack.

    `stop_order` names groups of children; those of one group are stopped together, the groups one after the other.
    """

    def __init__(self, steps: Steps, record: Record, stop_order: tuple[tuple[str, ...], ...]) -> None:
        self._steps = steps
        self._record = record
        self._stop_order = stop_order
        self._children: dict[str, Child] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._stopping = False
        self.failed: asyncio.Future[UpError] = asyncio.get_running_loop().create_future()
        self.changed = asyncio.Event()  # set whenever a child runs under a new pid

    @property
    def pids(self) -> Mapping[str, int]:
        """The pids of what runs, by name."""
        return {name: child.pid for name, child in self._children.items() if child.running}

    async def start(self, command: Command) -> Child:
        """Starts a child that this supervisor will stop. It is watched only after `keep` or `mind`."""
        child = await Child.start(command)
        self._children[command.name] = child
        self._record.add(command.name, child.pid, command.stop_signal)
        self.changed.set()
        return child

    async def run(self, command: Command) -> None:
        """Runs a command to its end. Raises `UpError` when its exit code is not 0."""
        child = await self.start(command)
        code = await child.wait()
        await child.stop()
        if code != 0:
            raise died(child, code)

    def keep(self, child: Child, is_ready: Check, *, within_s: float) -> None:
        """From now on `child` is started again when it ends, up to `RESTARTS_MAX` times in `RESTARTS_WITHIN_S`."""
        self._watch(child, self._revive(child, is_ready, within_s))

    def mind(self, child: Child) -> None:
        """From now on the end of `child` is the end of the stack (a store whose loss cannot be papered over)."""
        self._watch(child, self._report_end(child))

    def _watch(self, child: Child, work: Awaitable[None]) -> None:
        self._watchers[child.command.name] = asyncio.ensure_future(work)

    async def _report_end(self, child: Child) -> None:
        self._fail(died(child, await child.wait()))

    async def _revive(self, child: Child, is_ready: Check, within_s: float) -> None:
        deaths: deque[float] = deque(maxlen=RESTARTS_MAX + 1)
        loop = asyncio.get_running_loop()
        while True:
            code = await child.wait()
            deaths.append(loop.time())
            recent = sum(at > loop.time() - RESTARTS_WITHIN_S for at in deaths)
            if recent > RESTARTS_MAX:
                self._fail(died(child, code))
                return
            await child.stop()  # descendants that outlived it would hold its port
            delay = _DELAYS_S[recent - 1]
            self._steps.note(f"{child.command.name} {describe_exit(code)}; starting it again in {delay} s")
            await asyncio.sleep(delay)
            try:
                child = await self.start(child.command)
                await until_ready(child, is_ready, within_s=within_s)
                self._steps.note(f"{child.command.name} is back (pid {child.pid})")
            except UpError as error:
                if child.running:
                    self._fail(error)
                    return

    def _fail(self, error: UpError) -> None:
        if not self._stopping and not self.failed.done():
            self.failed.set_result(error)

    async def stop(self) -> None:
        """Stops everything, in order. Takes at most the sum of the longest `stop_s_max` of each group."""
        self._stopping = True
        for watcher in self._watchers.values():
            watcher.cancel()
        await asyncio.gather(*self._watchers.values(), return_exceptions=True)
        named = {name for group in self._stop_order for name in group}
        others = tuple(name for name in self._children if name not in named)  # one-off commands that were cut short
        for group in (others, *self._stop_order):
            await asyncio.gather(*(self._children[name].stop() for name in group if name in self._children))
        # descendants that made a session of their own and missed the end of their parents
        leftovers.kill(leftovers.of_instance(self._record.instance))
        self._record.remove()
