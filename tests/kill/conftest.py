"""The one campaign that the tests of this folder look at from all sides."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.kill.drill import Drill, Plan, Report
from tests.kill.stack import running

SEED = 20261124


@pytest_asyncio.fixture(scope="session")
async def report(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Report]:
    """Every point once, both at once, stores at every point, random times; takes about 110 s on two cores."""
    async with running(tmp_path_factory.mktemp("kill") / "data") as stack:
        yield await Drill(stack, Plan(seed=SEED)).run()
