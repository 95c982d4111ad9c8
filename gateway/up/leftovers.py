"""Processes that an earlier start left behind: recorded while it runs, found and ended by the next one.

A process id alone proves nothing, since the kernel uses it again; with the boot and the start time (field 22 of
/proc/<pid>/stat, in clock ticks since boot) it names one process. Descendants that left their parent's group are found
by a random id of the instance in the environment that all our children inherit.
"""

import json
import os
import secrets
import signal
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from gateway.up.folder import write_private_json

INSTANCE_VARIABLE = "SEKISHO_UP_INSTANCE"
END_S_MAX = 8.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Recorded:
    """One process, named so that it cannot be mistaken for another one."""

    name: str
    pid: int
    started_ticks: int
    stop_signal: int = signal.SIGTERM


class Record:
    """The file that names all running children of this supervisor; rewritten whenever one starts or ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._children: dict[str, Recorded] = {}
        self.instance = secrets.token_hex(16)

    def add(self, name: str, pid: int, stop_signal: int) -> None:
        """Child `name` runs as `pid`, in place of an earlier one of that name."""
        ticks = started_ticks(pid)
        if ticks is not None:
            self._children[name] = Recorded(name, pid, ticks, stop_signal)
            self.write()

    def write(self) -> None:
        """Puts the present state on disk; once before the first child, so that even that one can be found."""
        children = [asdict(child) for child in self._children.values()]
        write_private_json(self._path, {"boot": boot_id(), "instance": self.instance, "children": children})

    def remove(self) -> None:
        """Everything has ended."""
        self._path.unlink(missing_ok=True)


def started_ticks(pid: int) -> int | None:
    """When `pid` started, in clock ticks since boot, or None when there is no such process (or it is a zombie)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name in parentheses may hold spaces; the state, field 3, follows it
    return None if fields[0] == "Z" else int(fields[19])


def boot_id() -> str:
    """Names this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def end_leftovers(record_file: Path, cluster: Path) -> list[str]:
    """Ends what an earlier supervisor of this data folder left behind and returns the names. Blocks up to 10 s.

    MUST be called with the folder locked: only then is everything that the record names left behind.
    """
    left = {process.pid: process for process in (*_recorded(record_file), *_servers_of(cluster))}
    _signal(left.values(), None)
    deadline = time.monotonic() + END_S_MAX
    while any(map(_alive, left.values())) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    kill(left.values())
    while any(map(_alive, left.values())) and time.monotonic() < deadline + 2:
        time.sleep(_POLL_S)
    record_file.unlink(missing_ok=True)
    return sorted({process.name for process in left.values()})


def of_instance(instance: str) -> list[Recorded]:
    """All processes whose environment holds this instance's id; those of other users are passed over."""
    mark = f"{INSTANCE_VARIABLE}={instance}".encode("ascii")
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            marked = mark in (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        ticks = started_ticks(int(folder.name)) if marked else None
        if ticks is not None:
            found.append(Recorded("a helper process", int(folder.name), ticks))
    return found


def kill(processes: Iterable[Recorded]) -> None:
    """SIGKILL to those that are still there."""
    _signal(processes, signal.SIGKILL)


def _recorded(record_file: Path) -> list[Recorded]:
    try:
        value = json.loads(record_file.read_text(encoding="utf-8"))
        if value["boot"] != boot_id():
            return []
        children = [Recorded(**child) for child in value["children"]]
        instance = value["instance"]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # no record, or one that was cut short: the cluster's own pid file still leads to the server
    known = {child.pid for child in children}
    return [*filter(_alive, children), *(found for found in of_instance(instance) if found.pid not in known)]


def _servers_of(cluster: Path) -> list[Recorded]:
    """The PostgreSQL server that works in `cluster`, if one does: its pid file names it, its command line proves it."""
    try:
        pid = int((cluster / "postmaster.pid").read_text(encoding="ascii").split()[0])
        works_there = os.fsencode(cluster) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError, IndexError):
        return []
    ticks = started_ticks(pid)
    return [Recorded("postgresql", pid, ticks, signal.SIGINT)] if works_there and ticks is not None else []


def _alive(process: Recorded) -> bool:
    return started_ticks(process.pid) == process.started_ticks


def _signal(processes: Iterable[Recorded], number: signal.Signals | None) -> None:
    for process in processes:
        if _alive(process):
            try:
                os.kill(process.pid, number or process.stop_signal)
            except ProcessLookupError:
                continue
