"""A tenant's usage on the running stack: there within a second, the same as JSON, as CSV and on the invoice's draft."""

import asyncio
import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.raw import chat
from tests.e2e.stack import Stack, until
from tests.e2e.tenants import Tenant


async def asked(client: httpx.AsyncClient) -> dict[str, Any]:
    """The usage that the tenant's one request was told, once `GET /v1/usage` shows it."""
    answer = await client.post("/chat/completions", json=chat("scripted-small", max_tokens=9))
    assert answer.status_code == 200, answer.text

    async def shown() -> dict[str, Any] | None:
        totals: dict[str, Any] = (await client.get("/usage")).json()["totals"]
        return totals if totals["requests"] else None

    totals = await until(shown, 1.0, "the settled request is not in the usage")
    usage = answer.json()["usage"]
    assert (totals["prompt_tokens"], totals["completion_tokens"]) == (
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )
    return totals


async def test_usage_is_the_same_as_json_and_as_csv_and_narrowed_by_filters(
    client: httpx.AsyncClient, tenant: Tenant
) -> None:
    totals = await asked(client)
    by_kind = (await client.get("/usage", params={"group_by": "kind"})).json()
    assert by_kind["totals"] == totals
    assert sum(row["micro_yen"] for row in by_kind["rows"]) == totals["micro_yen"] > 0
    for options in ({"params": {"format": "csv"}}, {"headers": {"accept": "text/csv"}}):
        answer = await client.get("/usage", **options)  # type: ignore[arg-type] # of two kinds
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        assert answer.headers["content-disposition"].startswith('attachment; filename="usage-')
        (line,) = csv.DictReader(io.StringIO(answer.text, newline=""))
        assert {name: int(value) for name, value in line.items()} == totals
    for name, good, bad in (("model", "scripted-small", "scripted-paced"), ("key", tenant.key_id, "k"),
                            ("outcome", "completed", "client_gone"), ("project", "", "p")):  # fmt: skip
        counts = [
            (await client.get("/usage", params={name: value})).json()["totals"]["requests"] for value in (good, bad)
        ]
        assert counts == [1, 0], name


@pytest.mark.parametrize(
    ("query", "param"),
    [("format=xlsx", "format"), ("outcome=fun", "outcome"), ("key=%00", "key"), ("group_by=tenant", "group_by")],
)
async def test_usage_question_that_does_not_fit_is_named(client: httpx.AsyncClient, query: str, param: str) -> None:
    answer = await client.get(f"/usage?{query}")
    assert (answer.status_code, answer.json()["error"]["code"], answer.json()["error"]["param"]) == (
        400, "invalid_value", param,
    )  # fmt: skip


async def test_draft_of_the_invoice_says_what_the_usage_says(
    up: Stack, client: httpx.AsyncClient, tenant: Tenant
) -> None:
    totals = await asked(client)
    done = await preview(up, "--tenant", tenant.tenant_id, "--format", "json")
    document = json.loads(done)
    assert sum(int(line["micro_yen"]) for line in document["lines"]) == totals["micro_yen"]
    tokens = sum(int(line["quantity"]) for line in document["lines"])
    assert tokens == totals["prompt_tokens"] + totals["completion_tokens"]


async def test_demo_tenants_draft_can_be_looked_at_without_any_option(up: Stack, tmp_path: Path) -> None:
    told = (await preview(up)).decode()
    assert told.startswith("invoice (draft), ") and "payable: " in told
    await preview(up, "--format", "pdf", "--out", str(tmp_path / "draft.pdf"))
    assert (tmp_path / "draft.pdf").read_bytes().startswith(b"%PDF-")


async def preview(up: Stack, *options: str) -> bytes:
    """What `sekisho invoice preview` prints."""
    argv = [sys.executable, "-m", "gateway.cli", "--data-dir", str(up.data_dir), "invoice", "preview", *options]
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, timeout=60, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    return done.stdout
