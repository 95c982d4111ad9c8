"""Sees a SIGINT that was sent to a process which ignores it; standard library only, Linux only.

A shell script that starts `make up &` hands SIGINT down as ignored, and GNU make keeps it so: the kernel throws a
`kill -INT` for that make away before anybody can catch it, and nothing in /proc changes. Only a tracer is told
(ptrace(2): it sees signals before their action is looked up). So we trace that make for its signals alone: no system
call, no memory. Where tracing is not allowed (Yama, seccomp) nothing is seen and nothing breaks; SIGTERM, or SIGINT
to the process group, still stops everything.
"""

import ctypes
import os
import signal

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.ptrace.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_LIBC.ptrace.restype = ctypes.c_long
_CONT, _SEIZE, _LISTEN = 7, 0x4206, 0x4208  # linux/ptrace.h
_EVENT_STOP = 128
_WALL = 0x40000000
_STOPS = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)


class SignalTap:
    """Watches one process for signals. MUST be used from one thread only (the kernel binds a tracer to its thread)."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._attached = _LIBC.ptrace(_SEIZE, pid, None, None) == 0

    def saw_sigint(self) -> bool:
        """True once SIGINT has arrived since the last call. Every signal goes on to the process as it came."""
        seen = False
        while self._attached:
            try:
                pid, status = os.waitpid(self._pid, os.WNOHANG | _WALL)
            except ChildProcessError:
                self._attached = False
                break
            if pid == 0:
                break
            self._attached = os.WIFSTOPPED(status)  # otherwise it has ended
            seen = (self._attached and self._go_on(status)) or seen
        return seen

    def _go_on(self, status: int) -> bool:
        number = os.WSTOPSIG(status)
        if status >> 16 == _EVENT_STOP:  # stopped or continued as a whole, as by Ctrl-Z: it stays as it is
            _LIBC.ptrace(_LISTEN if number in _STOPS else _CONT, self._pid, None, None)
            return False
        _LIBC.ptrace(_CONT, self._pid, None, number)
        return number == signal.SIGINT
