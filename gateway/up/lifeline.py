"""Ties a process to its parent, in both directions; standard library only, Linux only.

Downwards: a child asks the kernel for a signal when we die, so that a SIGKILL of the supervisor leaves nothing behind.
Upwards: we look whether the `make` that started us is still there and was not interrupted. GNU make hands SIGTERM on to
its child but not SIGINT: it puts SIGINT back to its default action and waits for the child, for ever if need be. That
change of the signal's action is visible in /proc/<pid>/status, so we look there; for a make that ignores SIGINT, which
shows no change, see `tap`.
"""

import ctypes
import os
import signal
from collections.abc import Callable
from pathlib import Path

from gateway.up.tap import SignalTap

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(death_signal: signal.Signals) -> Callable[[], None]:
    """For `preexec_fn`: the child gets `death_signal` when the thread that started it ends (prctl(2)).

    MUST be called after any change of user, which clears the setting.
    """
    parent = os.getpid()

    def ask_the_kernel() -> None:
        if _LIBC.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
        if os.getppid() != parent:  # it died before we asked, so the signal will never come
            os._exit(1)

    return ask_the_kernel


class ParentWatch:
    """Notices that the `make` which runs us does not want us any more. Use it from one thread only."""

    def __init__(self, parent: int) -> None:
        """`parent` is the pid of make, as its recipe knows it (`$$PPID`)."""
        self._parent = parent
        self._tap = SignalTap(parent) if _sigint_action(parent) == "ignored" else None

    def reason(self) -> str | None:
        """Why we should stop, or None while make wants us to run. Ask about once a second."""
        if os.getppid() != self._parent:
            return "make is gone"
        if _sigint_action(self._parent) == "default" or (self._tap is not None and self._tap.saw_sigint()):
            return "make was interrupted"
        return None


def _sigint_action(pid: int) -> str:
    """What `pid` does at SIGINT: `caught`, `ignored`, `default`, or `unknown` where /proc does not say."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return "unknown"
    masks = {name: value.strip() for name, _, value in (line.partition(":") for line in status.splitlines())}
    bit = 1 << (signal.SIGINT - 1)
    for mask, action in (("SigCgt", "caught"), ("SigIgn", "ignored")):
        if mask not in masks:
            return "unknown"
        if int(masks[mask], 16) & bit:
            return action
    return "default"
