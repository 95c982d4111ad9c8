"""What an engine's refusal means for the caller, and what of its words may be told."""

import json

import pytest

from gateway.edge.dispatch import rejection
from gateway.edge.exchange import Exchange
from gateway.upstreams.client import Rejected
from gateway.upstreams.types import Profile, Upstream

PROFILE = Profile(context_tokens=2048, max_output_tokens=512)


def fault_of(status: int, body: bytes) -> tuple[str, int, str]:
    exchange = Exchange("chat", "gateway-test")
    exchange.upstream = Upstream("u", "m", "http://127.0.0.1:1/v1", "m", None, "edge", "jp", "s", PROFILE, 0)
    fault = rejection(exchange, Rejected(status, body))
    return fault.code.name, fault.code.status, fault.text("en")


def said(message: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": "BadRequestError", "code": 400}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, said("This model's maximum context length is 2048 tokens. However, …"), "context_length_exceeded"),
        (400, said("n must be 1 when using greedy sampling"), "rejected_by_model"),
        (422, b"[]", "rejected_by_model"),
        (400, b"\xff", "rejected_by_model"),
        (503, b"Request dropped due to backpressure", "overloaded"),
        (429, b"", "overloaded"),
        (404, b'{"detail": "no such model"}', "upstream_failed"),
        (500, said("x"), "upstream_failed"),
        (302, b"", "upstream_failed"),
    ],
)
def test_status_and_words_decide_the_code(status: int, body: bytes, code: str) -> None:
    assert fault_of(status, body)[0] == code


def test_engines_words_about_the_callers_request_are_told() -> None:
    assert "greedy sampling" in fault_of(400, said("n must be 1 when using greedy sampling\nsecond line"))[2]


@pytest.mark.parametrize(
    "words",
    ["Traceback (most recent call last): …", "RayServeException: replica failed", "error in /opt/engine/model",
     "ray.exceptions.TaskError", "see worker (pid 4711)", "object at 0x7f00deadbeef", "file server.py line 3"],
)  # fmt: skip
def test_engines_innards_are_not_told(words: str) -> None:
    text = fault_of(400, said(f"Invalid request. {words}"))[2]
    assert words not in text
    assert "Invalid request." not in text
