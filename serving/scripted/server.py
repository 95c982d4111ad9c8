"""The HTTP side: routes, and what becomes of a request before it is generated."""

import time
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path

import msgspec
from aiohttp import web

from serving.scripted.answer import Job, answer
from serving.scripted.asks import Ask, BadRequestError, read_chat, read_completion
from serving.scripted.generate import ChoicePlan
from serving.scripted.metrics import render_metrics
from serving.scripted.model import Model
from serving.scripted.record import Record
from serving.scripted.render import ChatRenderer, CompletionRenderer, Style
from serving.scripted.scenario import Fault, LateUsage, MissingUsage, Refuse, Scenario
from serving.scripted.wire import JSON_HEADERS

BODY_BYTES_MAX = 64 << 20
_COUNTED = frozenset({"model", "messages", "prompt", "tools"})
encode = msgspec.json.encode


class Engine:
    """All models of one server, their record, and the last bodies received when asked to keep them."""

    def __init__(self, scenarios: dict[str, Scenario], record: Path | None = None, keep_bodies: int = 0) -> None:
        self.scenarios = scenarios
        self.models = {name: Model(name, scenario) for name, scenario in scenarios.items()}
        self.record = Record(record)
        self._keep_bodies = keep_bodies
        self._bodies: OrderedDict[str, bytes] = OrderedDict()
        self._started = int(time.time())

    def app(self) -> web.Application:
        """The application; the caller's runner must cancel handlers when their client leaves."""
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.add_routes(
            [
                web.post("/v1/chat/completions", self.chat),
                web.post("/v1/completions", self.completion),
                web.get("/v1/models", self.list_models),
                web.post("/tokenize", self.tokenize),
                web.get("/health", self.health),
                web.get("/metrics", self.metrics),
                web.get("/witness/{attempt_id}", self.witness),
                web.get("/served/{attempt_id}", self.served),
            ]
        )
        return app

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions."""
        return await self._answer(request, chat=True)

    async def completion(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/completions."""
        return await self._answer(request, chat=False)

    async def tokenize(self, request: web.Request) -> web.Response:
        """POST /tokenize: how many tokens a prompt has, in vLLM's form (`{"count", "max_model_len", "tokens"}`)."""
        try:
            body = msgspec.json.decode(await request.read())
            chat = isinstance(body, dict) and "messages" in body
            body = encode({name: value for name, value in body.items() if name in _COUNTED})
            ask = read_chat(body, self.scenarios) if chat else read_completion(body, self.scenarios)
        except BadRequestError as refused:
            return web.Response(body=refused.body, status=refused.status, headers=JSON_HEADERS)
        except (msgspec.DecodeError, AttributeError):
            return web.Response(status=400)
        count = sum(ask.prompt_tokens)
        limit = self.models[ask.model].scenario.max_model_len
        return _json({"count": count, "max_model_len": limit, "tokens": list(range(count)), "token_strs": None})

    async def list_models(self, request: web.Request) -> web.Response:
        """GET /v1/models."""
        return _json({"object": "list", "data": [self._card(model) for model in self.models.values()]})

    async def health(self, request: web.Request) -> web.Response:
        """GET /health: 200 with no body, as vLLM answers."""
        return web.Response()

    async def metrics(self, request: web.Request) -> web.Response:
        """GET /metrics: vLLM's names for what runs and waits."""
        return web.Response(text=render_metrics(self.models.values(), self.record))

    async def witness(self, request: web.Request) -> web.Response:
        """GET /witness/{attempt_id}."""
        attempt_id = request.match_info["attempt_id"]
        found = self.record.find(attempt_id)
        if found is None:
            return _json({"attempt_id": attempt_id, "state": "unknown"}, 404)
        return _json(found)

    async def served(self, request: web.Request) -> web.Response:
        """GET /served/{attempt_id}: headers and body as they arrived, while they are among the last ones kept."""
        attempt_id = request.match_info["attempt_id"]
        body = self._bodies.get(attempt_id)
        if body is None:
            return _json({"attempt_id": attempt_id, "kept": self._keep_bodies, "state": "unknown"}, 404)
        return web.Response(body=body, headers=JSON_HEADERS)

    async def _answer(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        body = await request.read()
        attempt_id = request.headers.get("x-request-id") or uuid.uuid4().hex
        if self._keep_bodies:
            self._keep(attempt_id, request, body)
        try:
            if request.content_type != "application/json":
                raise BadRequestError("Unsupported Media Type: Only 'application/json' is allowed")
            ask = read_chat(body, self.scenarios) if chat else read_completion(body, self.scenarios)
            plans = self.models[ask.model].plans(ask)
        except BadRequestError as refused:
            return web.Response(body=refused.body, status=refused.status, headers=JSON_HEADERS)
        fault = self.models[ask.model].faults.next(attempt_id)
        if isinstance(fault, Refuse):
            return _refused(fault)
        job = self._job(request, attempt_id, ask, plans, fault)
        try:
            return await answer(job)
        except ConnectionError:
            return web.Response()  # the client left while it was being answered: nobody to tell
        finally:
            self.record.abort(job.running)  # does nothing to an attempt that has ended by itself

    def _job(
        self, request: web.Request, attempt_id: str, ask: Ask, plans: Sequence[ChoicePlan], fault: Fault | None
    ) -> Job:
        model = self.models[ask.model]
        prompt_tokens = sum(ask.prompt_tokens)
        cached = min(model.scenario.cached_tokens, prompt_tokens)
        style = Style(
            cached_tokens=cached,
            reasons=model.scenario.reasoning is not None,
            usage=not isinstance(fault, MissingUsage),
            continuous=not isinstance(fault, LateUsage),
        )
        kind = ChatRenderer if ask.chat else CompletionRenderer
        renderer = kind(ask, attempt_id, int(time.time()), style)
        running = self.record.start(attempt_id, model.name, prompt_tokens, cached)
        return Job(request, model, ask, plans, renderer, self.record, running, fault)

    def _keep(self, attempt_id: str, request: web.Request, body: bytes) -> None:
        """Keeps a request as it came: {"attempt_id", "path", "headers": [[name, value]], "body"}."""
        headers = [[name.lower(), value] for name, value in request.headers.items()]
        try:
            content = msgspec.json.decode(body, type=msgspec.Raw)
        except msgspec.DecodeError:
            content = msgspec.Raw(encode(body.decode("utf-8", "replace")))
        kept = {"attempt_id": attempt_id, "path": request.path, "headers": headers, "body": content}
        self._bodies.pop(attempt_id, None)
        self._bodies[attempt_id] = encode(kept)
        if len(self._bodies) > self._keep_bodies:
            self._bodies.popitem(last=False)

    def _card(self, model: Model) -> dict[str, object]:
        return {
            "id": model.name,
            "object": "model",
            "created": self._started,
            "owned_by": "sekisho-scripted",
            "root": model.name,
            "parent": None,
            "max_model_len": model.scenario.max_model_len,
            "permission": [],
        }


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=encode(value), status=status, headers=JSON_HEADERS)


def _refused(fault: Refuse) -> web.Response:
    headers = dict(JSON_HEADERS)
    if fault.retry_after_s is not None:
        headers["Retry-After"] = str(fault.retry_after_s)
    phrase = HTTPStatus(fault.status).phrase if fault.status in set(HTTPStatus) else "Error"
    error = {"message": f"The scenario refuses: {phrase}.", "type": phrase, "param": None, "code": fault.status}
    return web.Response(body=encode({"error": error}), status=fault.status, headers=headers)
