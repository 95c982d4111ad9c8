"""One engine with test scenarios for this folder; it must stay silent on stderr."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.serving.scripted.process import EngineProcess, engine

SCENARIOS = Path(__file__).with_name("scenarios.yaml")


@pytest.fixture(scope="session")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """An engine with scenarios.yaml of this folder, a record and the last 50 bodies."""
    record = tmp_path_factory.mktemp("scripted") / "served.jsonl"
    complaints: list[str] = []
    with engine(
        "--scenarios", str(SCENARIOS), "--record", str(record), "--keep-bodies", "50", stderr=complaints
    ) as running:
        yield running
    assert complaints == [""], "the engine logged an error while serving"


@pytest.fixture
async def client(scripted: EngineProcess) -> AsyncIterator[httpx.AsyncClient]:
    """A client without limits that would hide the engine's own."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=scripted.root, timeout=10, limits=limits) as made:
        yield made
