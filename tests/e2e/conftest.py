"""One stack for the whole session; every test that needs it gets a tenant of its own."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import yaml

from serving.scripted.scenario import DEFAULT_FILE
from tests.e2e.stack import Stack, stack
from tests.e2e.tenants import Tenant, Terms, add_model, add_tenant
from tests.serving.scripted.process import EngineProcess, engine

HERE = Path(__file__).parent
MODELS: tuple[str, ...] = tuple(yaml.safe_load(DEFAULT_FILE.read_text(encoding="utf-8"))["models"])
KEEPING_MODEL, ENDLESS_MODEL = "kept-small", "kept-endless"

ALL_MODELS = (*MODELS, KEEPING_MODEL, ENDLESS_MODEL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder starts the stack."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def bare_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack as `sekisho up` leaves it."""
    with stack(tmp_path_factory.mktemp("e2e") / "data") as running:
        yield running


@pytest.fixture(scope="session")
def keeping_engine() -> Iterator[EngineProcess]:
    """An engine that keeps what it was sent."""
    with engine("--keep-bodies", "100", "--scenarios", str(HERE / "scenarios.yaml")) as running:
        yield running


@pytest_asyncio.fixture(scope="session")
async def up(bare_stack: Stack, keeping_engine: EngineProcess) -> Stack:
    """The stack with every scripted model, and those of the engine that keeps bodies."""
    for name in MODELS:
        if name != "scripted-small":
            await add_model(bare_stack, name, images=64 if name == "scripted-vision" else 0)
    for name, context in ((KEEPING_MODEL, 8_192), (ENDLESS_MODEL, 65_536)):
        await add_model(bare_stack, name, engine_root=keeping_engine.root, context=context)
    return bare_stack


@pytest_asyncio.fixture
async def tenant(up: Stack) -> Tenant:
    """A tenant that may use every model."""
    return await add_tenant(up, Terms(models=ALL_MODELS))


@pytest_asyncio.fixture
async def client(up: Stack, tenant: Tenant) -> AsyncIterator[httpx.AsyncClient]:
    """The tenant's HTTP client of the data plane."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    async with httpx.AsyncClient(
        base_url=up.base_url, headers=tenant.headers, timeout=60, limits=limits, trust_env=False
    ) as made:
        yield made
