"""The life of a local stack: from the lock on its folder to the last process that is gone."""

import asyncio
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from gateway.up.failure import UpError
from gateway.up.folder import DataFolder, folder_error
from gateway.up.greeting import greeting
from gateway.up.leftovers import Record, end_leftovers
from gateway.up.lifeline import ParentWatch
from gateway.up.options import Options
from gateway.up.stack import Running, Stack
from gateway.up.steps import Steps, say, steps_for

_PARENT_POLL_S = 0.5


async def run(options: Options) -> int:
    """Runs the stack until a signal, the end of make, or a failure that cannot be repaired; returns the exit code."""
    asked = _Asked(options.parent)
    steps = steps_for(sys.stdout)
    folder = DataFolder.at(options.data_dir)
    try:
        with ExitStack() as held:
            folder.prepare()
            held.enter_context(folder.locked())
            folder.up_file.unlink(missing_ok=True)  # of a supervisor that was killed
            folder.stores_file.unlink(missing_ok=True)
            await _clean_up(folder, steps)
            sockets = held.enter_context(folder.sockets(others_pass=os.geteuid() == 0))
            await _serve(options, folder, sockets, steps, asked)
    except UpError as error:
        return _failed(error, steps)
    except OSError as error:
        return _failed(folder_error(folder.root, error), steps)
    finally:
        asked.close()
        steps.close()
    return 0


async def _clean_up(folder: DataFolder, steps: Steps) -> None:
    ended = await asyncio.to_thread(end_leftovers, folder.record_file, folder.cluster)
    if ended:
        steps.note(f"ended what an earlier start had left behind: {', '.join(ended)}")


async def _serve(options: Options, folder: DataFolder, sockets: Path, steps: Steps, asked: "_Asked") -> None:
    record = Record(folder.record_file)
    record.write()
    stack = Stack(options, folder, sockets, steps, record)
    life = asyncio.create_task(_live(stack, steps))
    still = asyncio.create_task(_signs_of_life(steps))
    end: set[asyncio.Future[Any]] = {life, asked.reason, stack.supervisor.failed}
    try:
        await asyncio.wait(end, return_when=asyncio.FIRST_COMPLETED)
        if asked.reason.done():
            steps.close()
            steps.note(f"{asked.reason.result()}: stopping")
        elif stack.supervisor.failed.done():
            raise stack.supervisor.failed.result()
        else:
            life.result()
    finally:
        folder.up_file.unlink(missing_ok=True)
        folder.stores_file.unlink(missing_ok=True)
        for task in (life, still):
            task.cancel()
        await asyncio.gather(life, still, return_exceptions=True)
        await stack.supervisor.stop()
        stack.close()
        steps.note("stopped")


async def _live(stack: Stack, steps: Steps) -> None:
    """Starts the stack, tells how to use it, and keeps `up.json` true while children come and go."""
    running: Running = await stack.start()
    stack.publish(running)
    steps.close()
    say(sys.stdout, greeting(running))
    while True:
        await stack.supervisor.changed.wait()
        stack.supervisor.changed.clear()
        stack.publish(running)


async def _signs_of_life(steps: Steps) -> None:
    while True:
        await asyncio.sleep(1)
        steps.still()


class _Asked:
    """Notices that somebody wants the stack to stop; `reason` is done as soon as they do."""

    def __init__(self, parent: int | None) -> None:
        loop = asyncio.get_running_loop()
        self.reason: asyncio.Future[str] = loop.create_future()
        # set explicitly: a shell that puts us in the background hands SIGINT down as ignored
        self._signals = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup means it
            self._signals.append(signal.SIGHUP)
        for number in self._signals:
            loop.add_signal_handler(number, self._stop, number.name)
        self._watch = asyncio.create_task(self._watch_parent(ParentWatch(parent))) if parent is not None else None

    def _stop(self, reason: str) -> None:
        if not self.reason.done():
            self.reason.set_result(reason)

    async def _watch_parent(self, parent: ParentWatch) -> None:
        while True:  # to the end: a parent that we trace waits for us at each signal
            reason = parent.reason()
            if reason is not None:
                self._stop(reason)
            await asyncio.sleep(_PARENT_POLL_S)

    def close(self) -> None:
        """Gives the signals back."""
        for number in self._signals:
            asyncio.get_running_loop().remove_signal_handler(number)
        if self._watch is not None:
            self._watch.cancel()


def _failed(error: UpError, steps: Steps) -> int:
    steps.close()
    if error.detail:
        say(sys.stderr, error.detail)
    say(sys.stderr, f"sekisho up: {error}")
    return 2
