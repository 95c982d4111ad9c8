"""The control: a bare relay as one would write it. FastAPI, uvicorn (uvloop, httptools), one aiohttp session.

python -m loadtests.overhead.relay --port PORT --upstream http://host:port/v1
"""

import argparse
import contextlib
from collections.abc import AsyncIterator

import aiohttp
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse


def relay(upstream: str) -> FastAPI:
    """The application: what comes in goes to `upstream`, what comes back goes out."""
    sessions: list[aiohttp.ClientSession] = []

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
        ) as session:
            sessions.append(session)
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/v1/{path:path}")
    async def pass_on(path: str, request: Request) -> Response:
        body = await request.body()
        answer = await sessions[0].post(f"{upstream}/{path}", data=body, headers={"content-type": "application/json"})
        kind = answer.headers.get("content-type", "application/json")
        if kind.startswith("text/event-stream"):
            return StreamingResponse(_parts(answer), answer.status, media_type="text/event-stream")
        async with answer:
            return Response(await answer.read(), answer.status, media_type=kind)

    return app


async def _parts(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    async with answer:
        async for part in answer.content.iter_any():
            yield part


def main() -> None:
    """Serve on the loopback address until a signal."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.overhead.relay")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True, help="ends in /v1")
    options = parser.parse_args()
    uvicorn.run(
        relay(options.upstream), host="127.0.0.1", port=options.port, loop="uvloop", http="httptools",
        access_log=False, log_level="warning",
    )  # fmt: skip


if __name__ == "__main__":
    main()
