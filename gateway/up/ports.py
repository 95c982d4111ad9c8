"""Ports on the loopback address: a taken default gives way to a free one, a taken port that was named is an error."""

import errno
import socket

from gateway.up.failure import UpError

LOOPBACK = "127.0.0.1"


class PortTakenError(Exception):
    """Somebody listens there, or another supervisor has claimed it."""


class PortClaim:
    """Keeps a port for a child that will listen on it a little later.

    Two guards: a listening placeholder, given up by `release` right before the child starts, and a name in the kernel's
    abstract socket space, held to the end, which another supervisor sees also while nobody listens.
    """

    def __init__(self, port: int) -> None:
        """Claims `port`, or any free one for 0. Raises `PortTakenError`, or `PermissionError` below 1024."""
        self._placeholder: socket.socket | None = _listen(port)
        self.port: int = self._placeholder.getsockname()[1]
        self._name = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._name.bind(f"\0sekisho-port-{self.port}")
        except OSError as error:
            self.close()
            raise PortTakenError(self.port) from error

    def release(self) -> None:
        """Lets the child listen."""
        if self._placeholder is not None:
            self._placeholder.close()
            self._placeholder = None

    def close(self) -> None:
        """Gives the port back."""
        self.release()
        self._name.close()


def _listen(port: int) -> socket.socket:
    placeholder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # as servers do: connections of an earlier run that linger in TIME_WAIT do not make a port taken
        placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        placeholder.bind((LOOPBACK, port))
        placeholder.listen(1)
    except OSError as error:
        placeholder.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(port) from error
        raise
    return placeholder


def claim_named(port: int, option: str) -> PortClaim:
    """The port that the caller named with `option`, or an `UpError` of one line."""
    try:
        return PortClaim(port)
    except PortTakenError:
        raise UpError(f"port {port} is taken", f"name another one with {option}=…, or leave it out") from None
    except PermissionError:
        raise UpError(f"port {port} needs privileges", f"name one above 1023 with {option}=…") from None


def claim_default(port: int) -> PortClaim:
    """The default port, or any free one when it is taken; compare `.port` to tell which."""
    try:
        return PortClaim(port)
    except PortTakenError:
        return claim_any()


def claim_any() -> PortClaim:
    """A free port that the kernel picks."""
    for _ in range(20):  # the kernel may pick a port whose name another supervisor holds
        try:
            return PortClaim(0)
        except PortTakenError:
            continue
    raise UpError("no free port was found on the loopback address", "end some programs that hold ports and try again")
