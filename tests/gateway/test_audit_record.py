"""The audit record is canonical and bounded."""

import json

import pytest

from billing.types import Outcome
from gateway.audit.record import RECORD_BYTES_MAX, AuditRecord


def a_record(**changes: object) -> AuditRecord:
    longest = {
        "request": "f" * 36, "tenant": "t" * 40, "key": "k" * 15, "model": "m" * 64, "action": "completion",
        "outcome": Outcome.UPSTREAM_TIMEOUT, "code": "remote_media_not_supported", "http": 503,
        "rule": "g" * 24, "licence": "l" * 32 + "@2147483647", "epoch": 10**10,
        "prompt": 10**9, "cached": 10**9, "completion": 10**9, "reasoning": 10**9, "micro_yen": 10**15,
        "source": "checkpoint", "at": 10**16 - 1, "verb": "request:recover",
    }  # fmt: skip
    return AuditRecord(**{**longest, **changes})  # type: ignore[arg-type] # the values' types differ by field


def test_longest_record_fits() -> None:
    assert len(a_record().canonical()) <= RECORD_BYTES_MAX


def test_keys_are_sorted_and_nothing_is_padded() -> None:
    text = a_record().canonical()
    decoded = json.loads(text)
    assert text == json.dumps(decoded, sort_keys=True, separators=(",", ":"))  # RFC 8785 for ASCII and integers
    assert decoded["v"] == 1


@pytest.mark.parametrize("changes", [{"model": "モデル"}, {"model": "m" * 600}])
def test_record_outside_its_form_is_an_error(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="ASCII"):
        a_record(**changes).canonical()
