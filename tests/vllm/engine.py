"""Real vLLM under Ray Serve, once per session: the whole stack as `make up` starts it, gateway included."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.e2e.stack import Stack, stack
from tests.serving.scripted.process import REPOSITORY

START_S_MAX = 420.0
DATA_DIR = REPOSITORY / ".sekisho-test"


@dataclass(frozen=True)
class VllmEngine:
    """The engine itself, without the gateway. `root` has no path; `headers` are for `witness_url`."""

    root: str
    model: str
    witness_url: str
    headers: dict[str, str]


@pytest.fixture(scope="session")
def vllm_stack() -> Iterator[Stack]:
    """The stack with vLLM. The model is built once and kept for the next session."""
    DATA_DIR.mkdir(exist_ok=True)
    with stack(DATA_DIR, kind="vllm", start_s_max=START_S_MAX) as running:
        yield running


@pytest_asyncio.fixture(scope="session")
async def vllm_engine(vllm_stack: Stack) -> VllmEngine:
    """The engine behind the stack."""
    model = str(vllm_stack.up["model"])
    witness_url = await vllm_stack.witness_url(model)
    return VllmEngine(await vllm_stack.engine_root(model), model, witness_url, vllm_stack.witness_headers)
