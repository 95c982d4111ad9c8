"""What the requests of the admin plane share: a small pool of its own, so that the data plane never waits for it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

from gateway.control.authenticate import authenticate, authenticate_again, presented_key
from gateway.control.principal import AdminPrincipal
from gateway.control.refusals import is_unavailable, unavailable
from gateway.control.work import Work
from gateway.control.work_store import hold_write_lock
from gateway.identity.secrets import Peppers
from gateway.tenancy.keystore import TenantKeys
from gateway.tenancy.standing import LimitView

CONNECTIONS_MAX = 4
CONNECT_S_MAX = 2.0
ACQUIRE_S_MAX = 5.0
COMMAND_S_MAX = 30.0
_SESSION = {
    "application_name": "sekisho-admin",
    "role": "sekisho_app",
    "timezone": "UTC",
    "lock_timeout": "5s",
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "30s",
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request, and its id."""

    actor: AdminPrincipal
    request_id: str


@dataclass(frozen=True, slots=True)
class Plane:
    """The pool, the peppers of the keys that are compared and issued, the tenants' encryption keys, and how limits
    stand."""

    pool: Any
    peppers: Peppers
    tenant_keys: TenantKeys
    limits: LimitView

    async def authenticate(self, authorization: str | None) -> AdminPrincipal:
        """See `gateway.control.authenticate`. What is no admin key takes no connection."""
        presented = presented_key(authorization)
        async with self._connection() as connection:
            return await authenticate(connection, presented, self.peppers.by_id)

    @asynccontextmanager
    async def work(self, caller: Caller, *, writes: bool) -> AsyncIterator[Work]:
        """A transaction of `caller`: committed when the block ends, undone when it raises. One that does not write sees
        the book of one moment. Raises `Fault` where the caller's key has ended since the request began."""
        async with self._connection() as connection:
            options = {} if writes else {"isolation": "repeatable_read", "readonly": True}
            async with connection.transaction(**options):
                if writes:
                    await hold_write_lock(connection)
                now = await authenticate_again(connection, caller.actor)
                yield Work(connection, caller.actor, now, caller.request_id, self.peppers.current, self.tenant_keys)

    @asynccontextmanager
    async def steps(self, caller: Caller) -> AsyncIterator[Work]:
        """Work of `caller` that is no transaction: whoever does it opens one for each of its steps."""
        async with self._connection() as connection:
            now = await authenticate_again(connection, caller.actor)
            yield Work(connection, caller.actor, now, caller.request_id, self.peppers.current, self.tenant_keys)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        try:
            async with self.pool.acquire(timeout=ACQUIRE_S_MAX) as connection:
                yield connection
        except Exception as error:
            if is_unavailable(error):
                raise unavailable(error) from error
            raise


def pool_of(dsn: str) -> Any:
    """The pool, to be entered as an asynchronous context; it connects when it is first used."""
    return asyncpg.create_pool(
        dsn, min_size=0, max_size=CONNECTIONS_MAX, timeout=CONNECT_S_MAX, command_timeout=COMMAND_S_MAX,
        server_settings=_SESSION,
    )  # fmt: skip
