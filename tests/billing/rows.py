"""Rows of the journal for tests."""

from typing import Any

import uuid_utils

from billing.rating import RateCard, rate
from billing.types import OpenRow, Outcome, Refusal, Settlement, Usage

CARD = RateCard("card-1", "model-1", 0, None, input_price=120, cached_input_price=60, output_price=480)
NOW = 1_795_489_348_000_000


def an_open_row(tenant_id: str, **changes: Any) -> OpenRow:
    """A row at dispatch."""
    values: dict[str, Any] = {
        "request_id": str(uuid_utils.uuid7()), "tenant_id": tenant_id, "key_id": "k" * 12, "project_id": "",
        "model": "model-1", "model_version": "1.0.0", "action": "chat", "purpose": "general",
        "data_class": "restricted", "country": "JP", "region": "jp-east", "tier": "heavy",
        "site": "site-1", "upstream_id": "u1", "rule_id": "lic/g1", "licence_id": "lic", "licence_version": 1,
        "epoch": 7, "rate_card_id": "card-1", "instance_id": "gateway-test", "period": "202611", "stream": True,
        "held_tokens": 100, "held_micro_yen": 48_000, "opened_at": NOW,
    }  # fmt: skip
    return OpenRow(**{**values, **changes})


def a_settlement(row: OpenRow, usage: Usage, **changes: Any) -> Settlement:
    """The end of `row`, charged by `CARD`."""
    values: dict[str, Any] = {
        "request_id": row.request_id, "tenant_id": row.tenant_id, "state": "settled", "outcome": Outcome.COMPLETED,
        "code": "", "http_status": 200, "finish_reason": "stop", "attempt": 1, "usage": usage, "source": "engine",
        "lines": rate(usage, CARD), "first_byte_at": NOW + 1, "settled_at": NOW + 2, "audit_record": '{"v":1}',
    }  # fmt: skip
    return Settlement(**{**values, **changes})


def a_refusal(row: OpenRow) -> Refusal:
    """The request of `row`, refused before it had one."""
    kept = ("request_id", "tenant_id", "key_id", "project_id", "model", "model_version", "action", "purpose",
            "data_class", "country", "region", "tier", "site", "rule_id", "licence_id", "licence_version", "epoch",
            "instance_id", "opened_at")  # fmt: skip
    values: dict[str, Any] = {name: getattr(row, name) for name in kept}
    return Refusal(
        **values, outcome=Outcome.REFUSED_QUOTA, code="insufficient_quota", http_status=429, audit_record='{"v":1}'
    )
