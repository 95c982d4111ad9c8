"""What a request asks PostgreSQL: the three writes of its own row, and nothing for identity, licence or limits."""

import json
from pathlib import Path

import httpx
import pytest

from loadtests.overhead.counting import REQUESTS, VALKEY
from loadtests.overhead.counts import BACKGROUND
from tests.e2e.credentials import api_key, client
from tests.e2e.raw import chat
from tests.e2e.replicas import replica
from tests.e2e.stack import Stack
from tests.e2e.tenants import add_tenant

EACH = 20
WRITES = {"Journal._store_opens", "Journal._store_marks", "Journal._store_settlements"}
KEYED = {"KeyStore._store_claims", "KeyStore.keep"}  # with an idempotency key, and only then: its claim, its answer


@pytest.mark.parametrize("kind", ["key", "token", "idempotency key"])
async def test_identity_and_licence_cost_no_query(up: Stack, tmp_path: Path, kind: str) -> None:
    tenant = await add_tenant(up)
    credential = await client(up, tenant) if kind == "token" else api_key(up, tenant)
    counts = tmp_path / "counts.json"
    # The token names the stack's own gateway as its issuer.
    settings = {"COUNTS_FILE": str(counts), "SEKISHO_PUBLIC_URL": up.root}
    with replica(up, tmp_path / "counting.log", "loadtests.overhead.counting", settings) as gateway:
        async with httpx.AsyncClient(base_url=gateway.base_url, trust_env=False) as asking:
            for number in range(EACH):
                headers = credential.headers("POST", gateway.base_url)
                if kind == "idempotency key":
                    headers["idempotency-key"] = f"order-{number}"
                answer = await asking.post("/chat/completions", json=chat(max_tokens=1), headers=headers)
                assert answer.status_code == 200, answer.text
    counted: dict[str, int] = json.loads(counts.read_text(encoding="utf-8"))
    assert counted.pop(REQUESTS) == EACH
    assert counted.pop(VALKEY) >= 2 * EACH
    asked = {name: n for name, n in counted.items() if not name.startswith(BACKGROUND)}
    fills = asked.pop("seed_arguments", 0)  # the first request of a month fills its counters
    assert fills <= 1
    assert set(asked) == WRITES | (KEYED if kind == "idempotency key" else set())
    assert all(0 < n <= EACH for n in asked.values())  # rows of one moment share a statement
