"""The data folder: what lies where, who may read it, and that one supervisor at a time uses it."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.up.failure import UpError

DISK_BYTES_MIN = 500 * 10**6
SOCKET_PATH_BYTES_MAX = 99  # the kernel allows 107; `wire.md` promises fewer than 100
_LONGEST_SOCKET = "pg/.s.PGSQL.5432.lock"
_OPEN_TO_ALL_TO_PASS = 0o711


@dataclass(frozen=True, slots=True)
class DataFolder:
    """Names of everything below the data folder; `root` is absolute and without symbolic links."""

    root: Path

    @classmethod
    def at(cls, path: Path) -> "DataFolder":
        """The data folder at `path`, which need not exist yet."""
        return cls(Path(os.path.realpath(path)))

    @property
    def stores_file(self) -> Path:
        """How the command line reaches the stores while they run."""
        return self.root / "stores.json"

    @property
    def up_file(self) -> Path:
        """What clients need to know of the running stack; there only while it serves."""
        return self.root / "up.json"

    @property
    def lock_file(self) -> Path:
        """Locked by the supervisor that runs; holds its pid."""
        return self.root / "up.lock"

    @property
    def record_file(self) -> Path:
        """The processes that the last supervisor started."""
        return self.root / "processes.json"

    @property
    def cluster(self) -> Path:
        """The PostgreSQL cluster."""
        return self.root / "pg"

    def part(self, name: str) -> Path:
        """One of the private folders: `secrets`, `valkey`, `models`, `logs`, `served`, `licences`."""
        return self.root / name

    def log(self, name: str) -> Path:
        """Where the output of process `name` goes."""
        return self.root / "logs" / f"{name}.log"

    def socket_name(self) -> str:
        """A name that two clones never share, however deep they lie."""
        return "sekisho-" + hashlib.sha256(os.fsencode(self.root)).hexdigest()[:8]

    def prepare(self) -> None:
        """Makes the folder and its private parts. Raises `UpError` where that is impossible or the disk is full."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            for name in ("secrets", "valkey", "models", "logs", "served", "licences"):
                part = self.part(name)
                part.mkdir(mode=0o700, exist_ok=True)
                part.chmod(0o700)
        except OSError as error:
            raise folder_error(self.root, error) from error
        free = shutil.disk_usage(self.root).free
        if free < DISK_BYTES_MIN:
            raise UpError(
                f"{free // 10**6} MB are free below {self.root} and the stores need {DISK_BYTES_MIN // 10**6} MB",
                "free some space, or name another folder with DATA_DIR=…",
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder for this process; the kernel lets go of it however we end."""
        try:
            descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise folder_error(self.root, error) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
                raise UpError(
                    f"another instance (pid {pid}) runs on {self.root}",
                    f"stop it (kill {pid}) or name another folder with DATA_DIR=…",
                ) from None
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode("ascii"))
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def sockets(self, *, others_pass: bool) -> Iterator[Path]:
        """A short private folder for unix sockets, empty at first and removed at the end.

        `others_pass` lets other users through to a part of it that is theirs (never list it), for stores that run
        under an account of their own.
        """
        folder = _short_folder() / self.socket_name()
        _make_own(folder, _OPEN_TO_ALL_TO_PASS if others_pass else 0o700)
        # A shared lock on the folder keeps systemd-tmpfiles from clearing it away under a stack that runs for weeks.
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield folder
        finally:
            os.close(descriptor)
            shutil.rmtree(folder, ignore_errors=True)


def _short_folder() -> Path:
    # the last one is there on every Linux, for a TMPDIR that is too deep
    for candidate in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), Path("/") / "tmp"):
        if not candidate or not os.access(candidate, os.W_OK | os.X_OK):
            continue
        if len(os.fsencode(candidate)) + len(f"/sekisho-01234567/{_LONGEST_SOCKET}") <= SOCKET_PATH_BYTES_MAX:
            return Path(candidate)
    raise UpError("there is no writable folder with a short name for unix sockets", "set TMPDIR to one")


def _make_own(folder: Path, mode: int) -> None:
    """Makes `folder` empty and ours, and refuses one that somebody else has put there."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise UpError(
                f"{folder} belongs to somebody else (user id {found.st_uid}), so sockets in it would not be private",
                "remove it, or set TMPDIR to a folder of your own",
            ) from None
        folder.chmod(0o700)
        for entry in folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    folder.chmod(mode)


def write_private_json(path: Path, value: Mapping[str, object]) -> None:
    """Replaces `path` in one step by JSON that only its owner may read (mode 0600)."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)
            json.dump(value, file, indent=2, ensure_ascii=False)
            file.write("\n")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise folder_error(path.parent, error) from error


def folder_error(folder: Path, error: OSError) -> UpError:
    """The one line for a data folder that cannot be used."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UpError(f"the disk below {folder} is full", "free some space, or name another folder with DATA_DIR=…")
    return UpError(
        f"the data folder {folder} cannot be used ({error.strerror})",
        "check its owner and permissions, or name another folder with DATA_DIR=…",
    )
