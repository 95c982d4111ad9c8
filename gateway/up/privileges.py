"""Which user PostgreSQL runs as: it refuses root, and root is who many containers and fresh machines log in as.

As an ordinary user nothing changes. As root the server runs under an unprivileged account. That account can often not
enter the clone (a home or temporary folder with mode 0700); changing the mode of folders that are not ours would open
them to everybody, so the process keeps one capability instead, the narrowest of those at hand that lets it pass:
CAP_DAC_READ_SEARCH, or CAP_DAC_OVERRIDE in containers that grant only that one (capabilities(7)).
"""

import ctypes
import os
import platform
import pwd
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from gateway.up.failure import UpError

_LIBC = ctypes.CDLL(None, use_errno=True)
_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2
_PR_SET_SECUREBITS = 28
_SECBIT_NO_SETUID_FIXUP = 1 << 2
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAPABILITY_VERSION_3 = 0x20080522
_CAPSET = {"x86_64": 126, "aarch64": 91}  # system call numbers: libc has no wrapper for capset(2)
_ACCOUNTS = ("postgres", "nobody")


@dataclass(frozen=True, slots=True)
class Account:
    """The user a process runs as; `capability` is the one it keeps, or None."""

    name: str
    uid: int
    gid: int
    capability: int | None

    def own(self, folder: Path) -> None:
        """Gives `folder` to this account, for nobody else."""
        if os.geteuid() == 0:
            os.chown(folder, self.uid, self.gid)
        folder.chmod(0o700)

    def assume(self) -> None:
        """For `preexec_fn`: become this account for good. Does nothing for the one that we are already."""
        if self.uid == os.geteuid():
            return
        if self.capability is not None:
            # Keeps capabilities over the change of user; without it access(2), which PostgreSQL asks about its own
            # binary, would also ignore the capability for a real user other than root.
            _check(_LIBC.prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0), "PR_SET_SECUREBITS")
        os.setgroups([])
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)
        if self.capability is not None:
            mask = 1 << self.capability
            header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
            sets = struct.pack("=6I", mask, mask, mask, 0, 0, 0)  # effective, permitted, inheritable; low, then high
            _check(_LIBC.syscall(_CAPSET[platform.machine()], header, sets), "capset")
            _check(_LIBC.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, self.capability, 0, 0), "PR_CAP_AMBIENT")


def account_for_stores(cluster: Path, program: Path) -> Account:
    """Who runs PostgreSQL: ourselves, or as root an unprivileged account that can reach `cluster` and `program`.

    A cluster that is there already goes on under the account that owns it.
    """
    if os.geteuid() != 0:
        return Account(_own_name(), os.geteuid(), os.getegid(), None)
    entry = _owner(cluster) or _unprivileged()
    free_way = all(_everyone_may_enter(path) for path in (cluster, program))
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, None if free_way else _capability(cluster))


def _owner(cluster: Path) -> pwd.struct_passwd | None:
    try:
        uid = cluster.stat().st_uid
        return pwd.getpwuid(uid) if uid != 0 else None
    except (FileNotFoundError, KeyError):
        return None


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise UpError(
            f"user id {os.geteuid()} has no entry in the account database, which PostgreSQL needs",
            "add one (useradd), or run as a user that has one",
        ) from None


def _unprivileged() -> pwd.struct_passwd:
    for name in _ACCOUNTS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise UpError(f"PostgreSQL does not run as root and there is no account {' or '.join(_ACCOUNTS)}", "run as a user")


def _everyone_may_enter(path: Path) -> bool:
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in path.parents)


def _capability(path: Path) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    permitted = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapPrm")), 16)
    for capability in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE):
        if permitted & (1 << capability) and platform.machine() in _CAPSET:
            return capability
    raise UpError(
        f"PostgreSQL does not run as root, and no other account may enter {path}",
        "run as an ordinary user, or move the clone to a folder that everybody may enter",
    )


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), what)
