"""What a process knows of the database by its own heartbeats."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import uuid_utils

from billing.link import StoreUnavailable
from gateway import heartbeat
from gateway.heartbeat import GAP_S_MAX, Heartbeat
from tests.conftest import Stores


class Watch:
    """A monotonic clock that stands until a test moves it."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    watch = Watch()
    monkeypatch.setattr(heartbeat, "time", watch)
    return watch


@pytest_asyncio.fixture
async def beating(stores: Stores, watch: Watch) -> AsyncIterator[Heartbeat]:
    beating = Heartbeat(stores.dsn, f"gateway-{uuid_utils.uuid7()}", "gateway")
    yield beating
    await beating.retire()


async def test_database_is_steady_from_the_first_heartbeat_on(beating: Heartbeat, watch: Watch) -> None:
    assert beating.steady_s() == 0.0
    for second in range(10):
        await beating.beat()
        assert beating.steady_s() == second
        watch.now += 1.0
    assert beating.steady_s() == 10.0


async def test_gap_ends_steadiness_at_once_and_it_begins_anew_after_it(beating: Heartbeat, watch: Watch) -> None:
    await beating.beat()
    watch.now += GAP_S_MAX
    await beating.beat()
    assert beating.steady_s() == GAP_S_MAX
    watch.now += GAP_S_MAX + 0.1
    assert beating.steady_s() == 0.0  # whoever asks before the next heartbeat is not told of the time before
    await beating.beat()
    assert beating.steady_s() == 0.0
    watch.now += 1.0
    assert beating.steady_s() == 1.0


async def test_heartbeat_that_fails_does_not_count(watch: Watch) -> None:
    beating = Heartbeat("postgresql://nobody@/nothing?host=/nonexistent", "gateway-1", "gateway")
    with pytest.raises(StoreUnavailable):
        await beating.beat()
    assert beating.steady_s() == 0.0
