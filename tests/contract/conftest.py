"""The upstreams that the contract is run against.

``scripted`` is started here. ``vllm`` is real vLLM under Ray Serve, started by `tests.vllm`. An engine that does not
start is an error of the run, never a skip.
"""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import httpx
import pytest

from tests.serving.scripted.process import engine
from tests.vllm.engine import VllmEngine


@dataclass(frozen=True)
class Upstream:
    """One engine under test. ``model`` answers at once; ``slow_model`` has few slots, for tests that fill them."""

    kind: str
    root: str
    model: str
    slow_model: str


@pytest.fixture(scope="session", params=["scripted", pytest.param("vllm", marks=pytest.mark.vllm)])
def upstream(request: pytest.FixtureRequest) -> Iterator[Upstream]:
    """Each upstream in turn."""
    if request.param == "scripted":
        with engine() as running:
            yield Upstream("scripted", running.root, "scripted-small", "scripted-narrow")
    else:
        served: VllmEngine = request.getfixturevalue("vllm_engine")
        yield Upstream("vllm", served.root, served.model, served.model)


@pytest.fixture
async def client(upstream: Upstream) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the upstream; the time-out covers a CPU engine that has several requests to answer."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=upstream.root, timeout=120, limits=limits) as made:
        yield made
