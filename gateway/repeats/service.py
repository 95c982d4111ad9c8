"""Decides what a request with an `Idempotency-Key` is: the first of its kind, a repeat of one that was answered, or one
that must wait for the first.

    claim      the key is free, or its request was delivered to nobody    → this request runs, and the key means it
    repeat     its request was delivered and the answer is kept           → the same bytes, no second charge
    refused    another request under the same key; an answer that is not kept; the first one still runs (409)

The journal alone says whether a request was delivered. A claim is only a name for a row of it, so a process that dies
anywhere leaves nothing to repair: the row, or its absence together with a silent process, decides.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from asyncpg import PostgresError

from gateway.faults import Fault
from gateway.repeats.answer import KeptAnswer, Recording, Room, sealed, unsealed
from gateway.repeats.asked import PARAM
from gateway.repeats.store import Found, KeyClaim, KeyStore
from gateway.tenancy.keystore import TenantKey, TenantKeys

_LOG = logging.getLogger(__name__)

WAIT_S_MAX = 15.0
RETRY_AFTER_S = 2
# Each of those who wait for one key holds a body of up to 10 MB.
WAITING_MAX = 128
POLL_S_MIN = 0.02
POLL_S_MAX = 0.4
KEEP_S_MAX = 2.0
_PURPOSE = "idempotency-fingerprint"
_FINAL = {"x-should-retry": "false"}  # the official clients try a 409 again unless they are told not to


@dataclass(frozen=True, slots=True)
class Question:
    """A request as far as its key is concerned. `text` is its canonical form; `keeps`: its answer may be stored."""

    tenant_id: str
    key_hash: bytes
    text: bytes
    request_id: str
    instance_id: str
    key_id: str
    model: str
    action: str
    keeps: bool


class Turn(asyncio.Lock):
    """Whose turn it is under one key in this process; `waiting` counts those who stand in line."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0

    async def take(self, deadline: float) -> None:
        """Wait for the turn. Raises `TimeoutError` at `deadline` (of the loop's clock), or if the line is too long."""
        if self.waiting >= WAITING_MAX:
            raise TimeoutError
        self.waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                await self.acquire()
        finally:
            self.waiting -= 1


@dataclass(slots=True)
class Claim:
    """A key that means a request of this process, until the request has ended."""

    row: KeyClaim
    key: TenantKey
    turn: Turn
    recording: Recording | None
    ended: bool = field(default=False)


class Repeats:
    """The keys of one process's requests. Of the requests of one key, one at a time asks the database here. `steady_s`
    as in `KeyStore`."""

    def __init__(self, dsn: str, keys: TenantKeys, steady_s: Callable[[], float]) -> None:
        self._store = KeyStore(dsn, steady_s)
        self._keys = keys
        self._turns: WeakValueDictionary[tuple[str, bytes], Turn] = WeakValueDictionary()
        self._room = Room()

    async def ask(self, question: Question) -> Claim | KeptAnswer:
        """A claim: the request runs. A kept answer: it is a repeat. Waits up to 15 s for a request that still runs.

        Raises `Fault` with `idempotency_key_reused`, `result_not_kept`, `idempotency_in_progress` or
        `store_unavailable`.
        """
        deadline = asyncio.get_running_loop().time() + WAIT_S_MAX
        turn = self._turns.setdefault((question.tenant_id, question.key_hash), Turn())
        try:
            await turn.take(deadline)
        except TimeoutError:
            raise _in_progress() from None
        claim = None
        try:
            key = await asyncio.to_thread(self._keys.current, question.tenant_id)
            claim = Claim(_row(question, key), key, turn, Recording(self._room) if question.keeps else None)
            found = await self._claimed(claim, question, deadline)
        except BaseException as error:
            turn.release()
            if isinstance(error, OSError | PostgresError):
                raise Fault("store_unavailable", retry_after_s=1, internal=f"idempotency: {error!r}") from error
            raise
        if found is None:
            return claim
        turn.release()
        return self._answer(question, found)

    async def _claimed(self, claim: Claim, question: Question, deadline: float) -> Found | None:
        """None when the key now means this request, else the earlier request of the same kind, which was delivered."""
        while not await self._store.claim(claim.row):
            found = await self._ended(question, deadline)
            if found is not None:
                return found
        return None

    async def _ended(self, question: Question, deadline: float) -> Found | None:
        """The delivered request under the key; None once the key is free."""
        delay = POLL_S_MIN
        while True:
            found = await self._store.find(question.tenant_id, question.key_hash)
            if found is None or await self._freed(question, found):
                return None
            key = self._keys.find(question.tenant_id, found.tenant_key)
            if key is not None and key.fingerprint(_PURPOSE, question.text) != found.fingerprint:
                raise Fault("idempotency_key_reused", param=PARAM, headers=_FINAL)
            if found.delivered:
                return found
            if asyncio.get_running_loop().time() > deadline:
                raise _in_progress()
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 # so that replicas do not ask in step
            delay = min(2 * delay, POLL_S_MAX)

    async def _freed(self, question: Question, found: Found) -> bool:
        """Whether the earlier request was delivered to nobody and never will be; then its key is free now."""
        if found.state == "voided":
            await self._store.free(question.tenant_id, question.key_hash, found.request_id)
            return True
        if found.state is None and (found.dead or found.old):
            await self._store.bury(question.tenant_id, question.key_hash, found)
            return True
        return False

    def _answer(self, question: Question, found: Found) -> KeptAnswer:
        """The kept answer. Raises `Fault("result_not_kept")`."""
        if found.answer is not None:
            answer = unsealed(found.answer, self._keys, question.tenant_id, question.key_hash, found.request_id)
            if answer is not None:
                return answer
        raise Fault("result_not_kept", param=PARAM, original=found.request_id, headers=_FINAL)

    async def keep(self, claim: Claim, region: str, *, stream: bool) -> None:
        """Store what was recorded, durably, before the client sees its end. What cannot be stored is not kept: that is
        no reason to fail an answer that is ready."""
        recording = claim.recording
        if recording is None or recording.overflown:
            return
        answer = KeptAnswer(claim.row.request_id, region, stream, recording.body())
        recording.drop()
        try:
            async with asyncio.timeout(KEEP_S_MAX):
                await self._store.keep(claim.row, sealed(answer, claim.key, claim.row))
        except (OSError, PostgresError) as error:  # a TimeoutError is an OSError
            _LOG.warning("the answer of %s is not kept: %r", claim.row.request_id, error)

    async def end(self, claim: Claim, *, delivered: bool) -> None:
        """The request has ended. Unless it was delivered, its key is free for the next try. Never raises."""
        if claim.recording is not None:
            claim.recording.drop()
        try:
            if not delivered:
                await self._store.free(claim.row.tenant_id, claim.row.key_hash, claim.row.request_id)
        except (OSError, PostgresError) as error:
            _LOG.warning("the key of %s is freed by whoever asks next: %r", claim.row.request_id, error)
        finally:
            if not claim.ended:
                claim.ended = True
                claim.turn.release()

    async def close(self) -> None:
        """Close the connections."""
        with suppress(OSError):
            await self._store.close()


def _in_progress() -> Fault:
    return Fault("idempotency_in_progress", param=PARAM, retry_after_s=RETRY_AFTER_S)


def _row(question: Question, key: TenantKey) -> KeyClaim:
    return KeyClaim(
        tenant_id=question.tenant_id, key_hash=question.key_hash,
        fingerprint=key.fingerprint(_PURPOSE, question.text), tenant_key=key.key_id, request_id=question.request_id,
        instance_id=question.instance_id, key_id=question.key_id, model=question.model, action=question.action,
    )  # fmt: skip
