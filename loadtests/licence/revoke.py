"""How soon a revocation is in force: three gateways of one book, asked without a pause until each of them refuses.

Every second round takes away the database's notifications, so that only the gateways' polls are left.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp
import asyncpg

from gateway.identity.keys import new_key
from gateway.identity.secrets import load_peppers
from gateway.tenancy.parties import ISSUER, LocalParties
from loadtests.overhead.rig import SHORT_MODEL, gateway_process, wait_for_model
from loadtests.processes import Unmeasurable
from loadtests.stack import ROOT, LocalStack, local_stack

What = Literal["licence", "parent licence", "key"]
WHATS: tuple[What, ...] = ("licence", "parent licence", "key")
GATEWAYS = 3
WAIT_S_MAX = 10.0
REFUSALS_AFTER = 5
_BODY = {"model": SHORT_MODEL, "messages": [{"role": "user", "content": "今"}], "max_tokens": 1}
_REFUSED: dict[What, tuple[int, str]] = {
    "licence": (403, "licence_revoked"), "parent licence": (403, "licence_revoked"), "key": (401, "key_revoked"),
}  # fmt: skip
_ENDED = (403, "revoked")


@dataclass(frozen=True, slots=True)
class Revocation:
    """One revocation: seconds from before its commit to the first refusal, the slowest gateway's; `asked` requests were
    answered meanwhile."""

    what: What
    notified: bool
    seconds: float
    asked: int


@dataclass(frozen=True, slots=True)
class _Right:
    """Something to revoke: the key that uses it, and the statement that takes it away."""

    what: What
    key: str
    statement: str
    argument: str


def revocation_seconds(folder: Path, rounds: int) -> list[Revocation]:
    """`rounds` revocations of each kind with notifications, and as many without. Raises `Unmeasurable` when a gateway
    still serves after 10 s, serves again later, or refuses for another reason."""
    with contextlib.ExitStack() as held:
        stack = held.enter_context(local_stack(folder / "data"))
        urls = [stack.base_url]
        for number in range(1, GATEWAYS):
            gateway = gateway_process(ROOT, ["gateway.cli"], stack.environment, folder / f"gateway-{number}.log")
            urls.append(held.enter_context(gateway)[0])
        return asyncio.run(_measure(stack, urls, rounds))


async def _measure(stack: LocalStack, urls: Sequence[str], rounds: int) -> list[Revocation]:
    connection = await asyncpg.connect(stack.database_url)
    revocations = []
    try:
        rights = await _rights(connection, stack.data_dir, 2 * rounds)
        for url in urls:
            for right in rights:
                await asyncio.to_thread(wait_for_model, url, right.key, SHORT_MODEL)
        async with aiohttp.ClientSession() as session:
            for number, right in enumerate(rights):
                notified = number < len(rights) // 2
                async with contextlib.nullcontext() if notified else silence(connection):
                    revocations.append(await _revoked(connection, session, urls, right, notified))
    finally:
        await connection.close()
    return revocations


async def _revoked(
    connection: Any, session: aiohttp.ClientSession, urls: Sequence[str], right: _Right, notified: bool
) -> Revocation:
    begun = [asyncio.Event() for _ in urls]
    watches = [
        asyncio.create_task(_until_refused(session, url, right, event)) for url, event in zip(urls, begun, strict=True)
    ]
    for event in begun:
        await event.wait()
    started = time.perf_counter()
    await connection.execute(right.statement, right.argument)
    seen = await asyncio.gather(*watches)
    return Revocation(right.what, notified, max(at - started for at, _ in seen), sum(asked for _, asked in seen))


async def _until_refused(
    session: aiohttp.ClientSession, url: str, right: _Right, begun: asyncio.Event
) -> tuple[float, int]:
    """When the first refusal arrived, and how many requests were served before it. `begun` is set at the first of them,
    or when there will be none."""
    try:
        return await _watched(session, url, right, begun)
    finally:
        begun.set()


async def _watched(session: aiohttp.ClientSession, url: str, right: _Right, begun: asyncio.Event) -> tuple[float, int]:
    served, deadline = 0, time.perf_counter() + WAIT_S_MAX
    while time.perf_counter() < deadline:
        told = await _ask(session, url, right.key)
        if told == _REFUSED[right.what]:
            at = time.perf_counter()
            for _ in range(REFUSALS_AFTER):
                if await _ask(session, url, right.key) != told:
                    raise Unmeasurable(f"the gateway at {url} served again after it had refused")
            return at, served
        if told == _ENDED:  # it was under way; the next one is refused
            continue
        if told[0] != 200:
            raise Unmeasurable(f"the gateway at {url} answered {told} instead of {_REFUSED[right.what]}")
        served += 1
        begun.set()
    raise Unmeasurable(f"the gateway at {url} still serves {WAIT_S_MAX:g} s after the {right.what} was revoked")


async def _ask(session: aiohttp.ClientSession, url: str, key: str) -> tuple[int, str]:
    headers = {"authorization": f"Bearer {key}"}
    async with session.post(f"{url}/chat/completions", json=_BODY, headers=headers) as response:
        body = await response.json()
        return response.status, body["error"]["code"] if "error" in body else ""


@contextlib.asynccontextmanager
async def silence(connection: Any) -> AsyncIterator[None]:
    """The triggers still stamp every change, and tell nobody."""
    loud = await connection.fetchval("SELECT pg_get_functiondef('stamp_epoch()'::regprocedure)")
    quiet = "".join(line for line in loud.splitlines(keepends=True) if "pg_notify" not in line)
    assert quiet != loud
    await connection.execute(quiet)
    try:
        yield
    finally:
        await connection.execute(loud)


async def _rights(connection: Any, data_dir: Path, each: int) -> list[_Right]:
    parties, pepper = LocalParties(data_dir), load_peppers(data_dir).current
    rights = []
    async with connection.transaction():
        for number in range(each):
            for what in WHATS:
                tenant = f"revoke-{what.split()[0]}-{number}"
                await _tenant(connection, tenant)
                parent = ""
                if what == "parent licence":
                    parent = f"{tenant}-above"
                    await _tenant(connection, parent)
                    await parties.store(connection, _licence(parent, ""))
                await parties.store(connection, _licence(tenant, parent))
                key = new_key("bench", pepper)
                await connection.execute(
                    "INSERT INTO api_key (key_id, tenant_id, mac, pepper_id) VALUES ($1, $2, $3, $4)",
                    key.key_id, tenant, key.mac, key.pepper_id,
                )  # fmt: skip
                rights.append(_right(what, key.text, f"lic-{parent or tenant}", key.key_id))
    return rights


def _right(what: What, key: str, licence_id: str, key_id: str) -> _Right:
    if what == "key":
        return _Right(what, key, "UPDATE api_key SET revoked_at = now() WHERE key_id = $1", key_id)
    return _Right(what, key, "UPDATE licence SET revoked_at = now() WHERE licence_id = $1", licence_id)


async def _tenant(connection: Any, tenant_id: str) -> None:
    await connection.execute(
        "INSERT INTO tenant (tenant_id, legal_name, tokens_month, micro_yen_month, rpm, concurrency)"
        " VALUES ($1, $1, 1000000000, 1000000000000000, 1000000, 4096)",
        tenant_id,
    )


def _licence(tenant_id: str, parent: str) -> dict[str, Any]:
    document: dict[str, Any] = {
        "v": 1, "licence_id": f"lic-{tenant_id}", "version": 1, "issuer": parent or ISSUER,
        "licensee": {"tenant": tenant_id, "legal_name": tenant_id, "class": "public"},
        "validity": {"not_before": "2026-01-01T00:00:00+09:00", "not_after": "2099-01-01T00:00:00+09:00"},
        "grants": [{"id": "g1", "models": [SHORT_MODEL], "actions": ["chat"]}],
        "delegation": {"allowed": not parent, "max_depth": 0 if parent else 1},
    }  # fmt: skip
    return {**document, "parent": {"licence_id": f"lic-{parent}", "version": 1}} if parent else document
