"""Progress for the person who waits: live lines with spinners on a terminal, plain lines anywhere else."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

STILL_S = 15.0


class Step:
    """One thing that takes a while. `detail` may be set until it is done, and is shown behind it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.detail = ""
        self.began = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began


class Steps(Protocol):
    """Where progress goes. MUST NOT raise when the output is gone: nobody reading is no reason to stop serving."""

    def begin(self, step: Step) -> None:
        """`step` has begun."""

    def end(self, step: Step, *, good: bool) -> None:
        """`step` is over."""

    def note(self, text: str) -> None:
        """One line that belongs to no step."""

    def still(self) -> None:
        """Called now and then: tell what is still going on."""

    def close(self) -> None:
        """Start-up is over; notes may still come."""


@contextmanager
def step(steps: Steps, name: str) -> Iterator[Step]:
    """Shows `name` while the block runs and how long it took."""
    current = Step(name)
    steps.begin(current)
    good = False
    try:
        yield current
        good = True
    finally:
        steps.end(current, good=good)


class PlainSteps:
    """One line per finished step, with seconds since the start in front and the step's own behind."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._began = time.monotonic()
        self._open: list[Step] = []
        self._last_line = self._began

    def begin(self, step: Step) -> None:
        """Nothing is printed yet: most steps are over before a line about them could be read."""
        self._open.append(step)

    def end(self, step: Step, *, good: bool) -> None:
        """`step` is over: say so, or that it did not work."""
        self._open.remove(step)
        if good:
            self.note(f"{step.name}: {step.detail or 'ready'} ({step.elapsed_s:.1f} s)")

    def note(self, text: str) -> None:
        """One line."""
        self._last_line = time.monotonic()
        say(self._output, f"[{self._last_line - self._began:6.1f} s] {text}")

    def still(self) -> None:
        """A sign of life after `STILL_S` seconds without a line."""
        if self._open and time.monotonic() - self._last_line >= STILL_S:
            names = ", ".join(f"{step.name} ({step.elapsed_s:.0f} s)" for step in self._open)
            self.note(f"still working: {names}")

    def close(self) -> None:
        """Plain lines need no closing."""


class RichSteps:
    """Spinners that turn into lines, for a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tasks: dict[int, TaskID] = {}
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[detail]}[/]"),
            console=console,
        )
        self._progress.start()

    def begin(self, step: Step) -> None:
        """A spinner appears."""
        self._tasks[id(step)] = self._progress.add_task(step.name, total=1, detail="")

    def end(self, step: Step, *, good: bool) -> None:
        """The spinner becomes a tick, or stops where the step failed."""
        task = self._tasks.pop(id(step))
        self._progress.update(task, completed=1 if good else 0, detail=step.detail if good else "[red]not done[/]")
        if not good:
            self._progress.stop_task(task)

    def note(self, text: str) -> None:
        """One line above the spinners."""
        self._console.print(text, markup=False, highlight=False)

    def still(self) -> None:
        """The spinners turn by themselves."""

    def close(self) -> None:
        """The spinners become part of the scrolled text."""
        self._progress.stop()


def steps_for(output: TextIO) -> Steps:
    """Live lines where `output` is a terminal that can show them, plain ones otherwise."""
    if output.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return RichSteps(Console(file=output))
    return PlainSteps(output)


def say(output: TextIO, text: str) -> None:
    """Prints `text`. When the reader is gone (`make up | head`), from then on nothing is printed and nothing fails."""
    try:
        output.write(text + "\n")
        output.flush()
    except OSError:
        # Python would fail once more when it flushes at exit, so what comes later goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
