"""Ports on the loopback address."""

import socket

import pytest

from gateway.up.failure import UpError
from gateway.up.ports import LOOPBACK, claim_any, claim_default, claim_named


def _listener() -> tuple[socket.socket, int]:
    listener = socket.create_server((LOOPBACK, 0))
    return listener, listener.getsockname()[1]


def test_taken_default_gives_way_to_a_free_port() -> None:
    listener, taken = _listener()
    with listener:
        claim = claim_default(taken)
    assert claim.port != taken
    claim.close()


def test_taken_port_that_was_named_is_one_line_with_a_cure() -> None:
    listener, taken = _listener()
    with listener, pytest.raises(UpError) as caught:
        claim_named(taken, "PORT")
    assert str(caught.value) == f"port {taken} is taken; name another one with PORT=…, or leave it out"


def test_port_of_another_supervisor_counts_as_taken_while_nobody_listens_yet() -> None:
    first = claim_any()
    first.release()  # its child has not come to listen yet
    second = claim_default(first.port)
    assert second.port != first.port
    first.close()
    second.close()


def test_released_port_is_free_for_the_child_and_a_closed_one_for_all() -> None:
    claim = claim_any()
    claim.release()
    with socket.create_server((LOOPBACK, claim.port)):
        pass
    claim.close()
    again = claim_named(claim.port, "PORT")
    again.close()


def test_lingering_connections_of_an_earlier_run_do_not_make_a_port_taken() -> None:
    listener, port = _listener()
    with listener, socket.create_connection((LOOPBACK, port)) as client:
        accepted, _ = listener.accept()
        accepted.close()  # the server closes first, so its side of the connection stays in TIME_WAIT
        client.recv(1)
    claim = claim_named(port, "PORT")
    assert claim.port == port
    claim.close()
