"""The life of one attempt, from its first byte to its line in the record, and where each fault strikes."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web

from serving.scripted.asks import Ask
from serving.scripted.generate import ChoicePlan
from serving.scripted.model import Model
from serving.scripted.record import Record, Running
from serving.scripted.render import DONE, Renderer
from serving.scripted.scenario import BadJson, Drop, ErrorEvent, Fault, Hang, LateUsage, SlowHeaders
from serving.scripted.stream import Stream
from serving.scripted.whole import generate_whole
from serving.scripted.wire import JSON_HEADERS, STREAM_HEADERS, drop, hang, send_slowly, transport_of

ENGINE_DIED = "EngineCore encountered an issue. See stack trace (above) for the root cause."
LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt, ready to be generated."""

    request: web.Request
    model: Model
    ask: Ask
    plans: Sequence[ChoicePlan]
    renderer: Renderer
    record: Record
    running: Running
    fault: Fault | None

    @property
    def finish_reason(self) -> str:
        """The first choice's, for the record."""
        return self.plans[0].finish_reason


async def answer(job: Job) -> web.StreamResponse:
    """Generates and sends one answer. The client's departure cancels it; the caller then notes the abort."""
    fault = job.fault
    if isinstance(fault, Hang) and fault.where == "headers":
        await hang()
    if isinstance(fault, Drop) and fault.where == "headers":
        return _dropped(job, fault)
    return await (_stream(job) if job.ask.stream else _whole(job))


async def _stream(job: Job) -> web.StreamResponse:
    # As with vLLM the headers leave at once, also when the request has to wait for a slot.
    transport = transport_of(job.request)
    slow = job.fault if isinstance(job.fault, SlowHeaders) else None
    response = web.StreamResponse(headers=STREAM_HEADERS)
    response.enable_chunked_encoding()
    if slow is not None:
        await send_slowly(transport, STREAM_HEADERS | {"Transfer-Encoding": "chunked"}, slow)
    else:
        await response.prepare(job.request)
    async with job.model.slots.hold(job.ask.choices):
        if isinstance(job.fault, Hang) and job.fault.where == "first_byte":
            await hang()
        stream = Stream(transport, job.renderer, job.plans, job.running, job.model.scenario, job.fault)
        ending = await stream.play(job.model.scenario.first_token_s)
        if ending == "fault" and isinstance(job.fault, Hang):
            await hang()
    if ending == "finished":
        await _close_stream(job, stream)
    elif isinstance(job.fault, Drop):
        return _dropped(job, job.fault)
    elif isinstance(job.fault, ErrorEvent):
        job.record.abort(job.running)
        stream.write([job.renderer.error_event(ENGINE_DIED), DONE])
    if slow is not None:
        transport.write(LAST_CHUNK)
        return drop(transport)
    return response


async def _close_stream(job: Job, stream: Stream) -> None:
    job.record.finish(job.running, job.finish_reason)
    events = stream.unsent
    if isinstance(job.fault, LateUsage):
        stream.write(events)
        events = []
        await asyncio.sleep(job.fault.delay_s)
    stream.write([*events, job.renderer.usage_chunk(job.plans), DONE])


async def _whole(job: Job) -> web.StreamResponse:
    body = job.renderer.full(job.plans)
    async with job.model.slots.hold(job.ask.choices):
        if isinstance(job.fault, Hang) and job.fault.where == "first_byte":
            await _send_part(job, body, 0)
            await hang()
        finished = await generate_whole(job.plans, job.running, job.model.scenario, job.fault)
        if not finished and isinstance(job.fault, Hang):
            await _send_part(job, body, len(body) // 2)
            await hang()
    if not finished and isinstance(job.fault, Drop):
        await _send_part(job, body, len(body) // 2)
        return _dropped(job, job.fault)
    if not finished:
        job.record.abort(job.running)
        error = job.renderer.error_body(ENGINE_DIED)
        return web.Response(body=error, status=500, headers=JSON_HEADERS)
    job.record.finish(job.running, job.finish_reason)
    if isinstance(job.fault, SlowHeaders):
        return await _send_whole_slowly(job, body, job.fault)
    if isinstance(job.fault, BadJson):
        body = body[: len(body) // 2]
    return web.Response(body=body, headers=JSON_HEADERS)


async def _send_part(job: Job, body: bytes, size: int) -> None:
    """Headers that promise all of ``body``, then only its first ``size`` bytes."""
    response = web.StreamResponse(headers=JSON_HEADERS)
    response.content_length = len(body)
    await response.prepare(job.request)
    transport_of(job.request).write(body[:size])


async def _send_whole_slowly(job: Job, body: bytes, fault: SlowHeaders) -> web.Response:
    transport = transport_of(job.request)
    await send_slowly(transport, JSON_HEADERS | {"Content-Length": str(len(body))}, fault)
    transport.write(body)
    return drop(transport)


def _dropped(job: Job, fault: Drop) -> web.Response:
    """The record first: whoever sees the connection end can already ask what was used."""
    job.record.abort(job.running)
    return drop(transport_of(job.request), reset=fault.reset)
