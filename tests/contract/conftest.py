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
    """One engine under test. ``model`` answers at once; ``slow_model`` has few slots, for tests that fill them.
    ``witness_headers`` are for ``witness_url``, where the engine's own records are read."""

    kind: str
    root: str
    model: str
    slow_model: str
    witness_url: str
    witness_headers: dict[str, str]


TOKEN = "token-of-the-contract"


@pytest.fixture(scope="session", params=["scripted", pytest.param("vllm", marks=pytest.mark.vllm)])
def upstream(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    """Each upstream in turn."""
    if request.param == "scripted":
        folder = tmp_path_factory.mktemp("contract")
        token_file = folder / "witness.token"
        token_file.write_text(TOKEN + "\n", encoding="ascii")
        with engine("--record", str(folder / "served.jsonl"), "--token-file", str(token_file)) as running:
            headers = {"authorization": f"Bearer {TOKEN}"}
            url = f"{running.root}/witness"
            yield Upstream("scripted", running.root, "scripted-small", "scripted-narrow", url, headers)
    else:
        served: VllmEngine = request.getfixturevalue("vllm_engine")
        yield Upstream("vllm", served.root, served.model, served.model, served.witness_url, served.headers)


@pytest.fixture
async def witness(upstream: Upstream) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the engine's records, with the token."""
    headers = upstream.witness_headers
    async with httpx.AsyncClient(base_url=upstream.witness_url, headers=headers, trust_env=False) as made:
        yield made


@pytest.fixture
async def client(upstream: Upstream) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the upstream; the time-out covers a CPU engine that has several requests to answer."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=upstream.root, timeout=120, limits=limits) as made:
        yield made
