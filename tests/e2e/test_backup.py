"""A backup taken under load and restored elsewhere: book and journal agree, what was frozen is, and it serves."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio

from tests.e2e.raw import chat
from tests.e2e.restored import Restored, back_up, programs_of, restored
from tests.e2e.situations import process_of
from tests.e2e.stack import START_S_MAX, Stack, free_port, until
from tests.e2e.tenants import Tenant, Terms, add_tenant

CALLERS = 12
TERMS = Terms(models=("scripted-small", "scripted-paced"))
FINAL = ("settled", "recovered", "voided")
_ROWS = "SELECT request_id::text AS id, state, md5(j::text) AS digest FROM journal j WHERE tenant_id = $1"
_BOOKS = """
SELECT count(*) AS rows, coalesce(sum(micro_yen), 0)::bigint AS micro_yen,
  count(*) FILTER (WHERE (settled_at IS NULL) = (state IN ('settled', 'recovered', 'voided'))) AS inconsistent,
  coalesce(sum(debit), 0)::bigint AS debit, coalesce(sum(credit), 0)::bigint AS credit,
  count(*) FILTER (WHERE coalesce(debit, 0) <> micro_yen OR coalesce(credit, 0) <> micro_yen) AS differing,
  count(*) FILTER (WHERE settled_at IS NOT NULL AND audits <> 1) AS unaudited
FROM journal j
LEFT JOIN (SELECT request_id, sum(debit) AS debit, sum(credit) AS credit FROM ledger_entry GROUP BY 1) l
  USING (request_id)
LEFT JOIN (SELECT request_id, count(*) AS audits FROM audit_pending GROUP BY 1) a USING (request_id)
"""
_STRAY = """
SELECT count(*) AS n FROM ledger_entry l WHERE NOT EXISTS (SELECT FROM journal j WHERE j.request_id = l.request_id)
"""
# What guards the book: rights, triggers, functions, constraints. Each as text, so that two clusters can be compared.
_GUARDS = (
    """
SELECT grantee || ' ' || privilege_type || ' ' || table_name AS guard FROM information_schema.role_table_grants
WHERE table_schema = 'public'
""",
    """
SELECT tgrelid::regclass || ' ' || tgenabled::text || ' ' || pg_get_triggerdef(oid) AS guard FROM pg_trigger
WHERE NOT tgisinternal
""",
    """
SELECT p.oid::regprocedure || ' ' || coalesce(p.proacl::text, '') || md5(pg_get_functiondef(p.oid)) AS guard
FROM pg_proc p WHERE pronamespace = 'public'::regnamespace
""",
    """
SELECT conrelid::regclass || ' ' || pg_get_constraintdef(oid) AS guard FROM pg_constraint
WHERE connamespace = 'public'::regnamespace
""",
    "SELECT rolname || ' ' || rolcanlogin || ' ' || rolsuper AS guard FROM pg_roles WHERE rolname LIKE 'sekisho%'",
)


@dataclass(frozen=True)
class Case:
    """A restored book, the tenant that was being served while it was taken, and its rows in the live book since."""

    copy: Restored
    tenant: Tenant
    live: Mapping[str, tuple[str, str]]


@pytest_asyncio.fixture(scope="module")
async def case(up: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Case]:
    """The backup is taken in the middle of a load of whole answers and streams."""
    folder = tmp_path_factory.mktemp("backup")
    tenant = await add_tenant(up, TERMS)
    stop = asyncio.Event()
    async with httpx.AsyncClient(base_url=up.base_url, headers=tenant.headers, timeout=30, trust_env=False) as client:
        calling = [asyncio.create_task(_call(client, number, stop)) for number in range(CALLERS)]
        await asyncio.sleep(1.5)
        backup = await back_up(up, programs_of(up), folder)
        stop.set()
        answered = sum(await asyncio.gather(*calling))
    assert answered > CALLERS
    await up.no_holds(tenant.tenant_id)
    live = {row["id"]: (row["state"], row["digest"]) for row in await up.fetch(_ROWS, tenant.tenant_id)}
    async with restored(backup, folder / "restored", up.data_dir / "secrets") as copy:
        yield Case(copy, tenant, live)


async def _call(client: httpx.AsyncClient, number: int, stop: asyncio.Event) -> int:
    answered = 0
    while not stop.is_set():
        body = chat("scripted-paced" if number % 3 else "scripted-small", max_tokens=20, stream=bool(number % 2))
        answered += (await client.post("/chat/completions", json=body)).status_code == 200
    return answered


async def test_restored_book_and_journal_agree_and_are_those_of_one_instant(case: Case) -> None:
    (books,) = await case.copy.fetch(_BOOKS)
    assert books["debit"] == books["credit"] == books["micro_yen"] > 0
    assert (books["differing"], books["inconsistent"], books["unaudited"]) == (0, 0, 0)
    assert await case.copy.fetch(_STRAY) == [{"n": 0}]
    rows = await case.copy.fetch(_ROWS, case.tenant.tenant_id)
    assert 0 < len(rows) < len(case.live)  # the load went on after it
    final = [row for row in rows if row["state"] in FINAL]
    assert final and len(final) < len(rows)  # and some of it was under way
    assert {(row["id"], row["state"], row["digest"]) for row in final} <= {
        (request_id, *row) for request_id, row in case.live.items()
    }


async def test_restored_book_is_guarded_by_the_same_roles_rights_triggers_and_constraints(
    case: Case, up: Stack
) -> None:
    for query in _GUARDS:
        ours, theirs = await case.copy.fetch(query), await up.fetch(query)
        assert sorted(row["guard"] for row in ours) == sorted(row["guard"] for row in theirs) != []
    for statement in (
        "UPDATE journal SET micro_yen = 0 WHERE state = 'settled'",
        "DELETE FROM journal WHERE state = 'settled'",
        "UPDATE ledger_entry SET debit = 0, credit = 0",
    ):
        with pytest.raises(asyncpg.RestrictViolationError):
            await case.copy.fetch(statement)
    connection = await asyncpg.connect(case.copy.dsn, server_settings={"role": "sekisho_app"})
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("DELETE FROM ledger_entry")
    finally:
        await connection.close()


async def _served_by(up: Stack, environment: Mapping[str, str], log: Path, tenant: Tenant) -> tuple[int, Any, Any]:
    """What a gateway on these stores answers the tenant: status and body of a request, and the tenant's usage."""
    port = free_port()
    arguments = ("gateway", "--port", str(port), "--ops-port", str(free_port()))
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", headers=tenant.headers, timeout=30, trust_env=False
    ) as client:

        async def ready() -> bool | None:
            try:
                return True if (await client.get("/readyz")).status_code == 200 else None
            except httpx.TransportError:
                return None

        with process_of(up, log, *arguments, **environment):
            await until(ready, START_S_MAX, "no gateway starts on the restored stores")
            answer = await client.post("/v1/chat/completions", json=chat(max_tokens=7))
            await asyncio.sleep(1.0)
            usage = await client.get("/v1/usage")
            return answer.status_code, answer.json(), usage.json()


async def test_gateway_and_worker_on_the_restored_stores_finish_what_was_under_way_and_serve(
    case: Case, up: Stack, tmp_path: Path
) -> None:
    async def all_final() -> bool | None:
        rows = await case.copy.fetch("SELECT count(*) AS n FROM journal WHERE settled_at IS NULL")
        return True if rows[0]["n"] == 0 else None

    with process_of(up, tmp_path / "worker.log", "worker", **case.copy.environment):
        await until(all_final, 90.0, "a row of the restored journal stays open")
    for row in await case.copy.fetch(
        "SELECT request_id::text AS id, model, attempt, usage_source, prompt_tokens, completion_tokens FROM journal"
        " WHERE state = 'recovered' AND tenant_id = $1", case.tenant.tenant_id,
    ):  # fmt: skip
        record = await up.witness(row["model"], f"{row['id']}-{row['attempt']}")
        assert row["usage_source"] == "witness"
        assert (row["prompt_tokens"], row["completion_tokens"]) == (
            record["prompt_tokens"], record["completion_tokens"],
        )  # fmt: skip
    before = await case.copy.fetch(_BOOKS)
    status, body, usage = await _served_by(up, case.copy.environment, tmp_path / "gateway.log", case.tenant)
    assert (status, body["usage"]["completion_tokens"]) == (200, 7)
    (books,) = await case.copy.fetch(_BOOKS)
    assert books["debit"] == books["credit"] == books["micro_yen"] > before[0]["micro_yen"]
    assert books["differing"] == books["inconsistent"] == 0
    mine = await case.copy.fetch(
        "SELECT coalesce(sum(micro_yen), 0)::bigint AS micro_yen FROM journal WHERE tenant_id = $1",
        case.tenant.tenant_id,
    )
    assert usage["totals"]["micro_yen"] == mine[0]["micro_yen"]


async def test_secrets_are_not_in_the_backup_and_without_them_no_key_is_known(
    case: Case, up: Stack, tmp_path: Path
) -> None:
    without = {**case.copy.environment, "SEKISHO_DATA_DIR": str(tmp_path / "empty")}
    status, body, _ = await _served_by(up, without, tmp_path / "gateway.log", case.tenant)
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")
