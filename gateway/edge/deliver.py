"""Delivery: the engine's answer, cleaned, counted, and sent on as it comes; nothing leaves before its journal row."""

import asyncio
from dataclasses import dataclass
from typing import Any

import msgspec

from billing.journal import Journal, Mark
from billing.rating import upper_bound
from billing.types import Outcome, Usage
from gateway.clock import now_us
from gateway.edge.dispatch import Begun
from gateway.edge.exchange import Exchange
from gateway.edge.headers import response_headers
from gateway.edge.inbound import Inbound
from gateway.edge.meter import StreamMeter, usage_of
from gateway.edge.openai import DONE, KEEP_ALIVE, event, public_usage, scrub
from gateway.edge.progress import Progress
from gateway.faults import Fault
from gateway.limits.holds import Holds
from gateway.repeats.service import Repeats
from gateway.upstreams.client import Answer, Broken, Timeouts

KEEP_ALIVE_S = 15.0
OPEN_S_MAX = 5.0
# Below, what a hold sets aside too much is not worth a step in the store; it comes back with the end anyway.
SLACK_TOKENS_MIN = 1_024


@dataclass(frozen=True, slots=True)
class Delivery:
    """Sends answers to clients."""

    journal: Journal
    progress: Progress
    repeats: Repeats
    timeouts: Timeouts
    holds: Holds

    async def deliver(self, exchange: Exchange, begun: Begun, inbound: Inbound) -> None:
        """Send the answer on. Raises `Fault` for a failure; after the first byte the caller sees it as an event."""
        try:
            await self._durable(exchange)
            if begun.events is None:
                await self._whole(exchange, begun.body, inbound)
                return
            async with asyncio.timeout(self.timeouts.total_s):
                await self._stream(exchange, begun.answer, begun.events, inbound)
        except TimeoutError:
            raise Fault("upstream_timeout", phase="total") from None
        finally:
            begun.answer.abort()  # no effect on an answer whose connection was given back

    async def _durable(self, exchange: Exchange) -> None:
        assert exchange.opened is not None and exchange.hold is not None
        await _stored(exchange.opened, "open row")
        # Limits may have changed their store since: what is delivered must be held where all look now.
        exchange.hold = await self.holds.confirm(exchange.hold)

    async def _mark(self, exchange: Exchange, usage: Usage) -> None:
        """The durable word that the first byte is about to leave. Until it stands nothing counts as delivered: a
        request that fails or is cancelled here is charged to nobody."""
        at = now_us()
        self.progress.begun(exchange.request_id)
        mark = self.journal.marks.put(Mark(exchange.request_id, exchange.attempt, True, usage, at))
        if not await _stored(mark, "mark"):
            # The worker took this process for dead and closed the row: what is delivered now could never be booked.
            raise Fault("store_unavailable", retry_after_s=1, internal="the row is final already")
        exchange.first_byte_at = at

    async def _whole(self, exchange: Exchange, body: bytes, inbound: Inbound) -> None:
        assert exchange.call is not None
        try:
            answer = msgspec.json.decode(body)
            usage = usage_of(answer["usage"])
            clean = scrub(answer, _answer_id(exchange), exchange.model)
            clean["usage"] = public_usage(answer["usage"])
            exchange.finish_reason = _word(clean["choices"][0].get("finish_reason"))
        except (msgspec.DecodeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise Fault("upstream_failed", internal=f"answer: {error!r}") from error
        exchange.count(usage, "engine")
        whole = msgspec.json.encode(clean)
        await self._keep(exchange, whole, last=True)  # before the mark: between that and the answer nothing may wait
        await self._mark(exchange, usage)
        exchange.outcome = Outcome.COMPLETED
        await inbound.respond(200, response_headers(exchange, inbound), whole)

    async def _stream(self, exchange: Exchange, answer: Answer, events: list[bytes] | None, inbound: Inbound) -> None:
        assert exchange.call is not None
        meter = exchange.meter = StreamMeter(exchange.call.choices)
        chunks = Chunks(exchange, meter)
        first = chunks.translate(events or [])
        await self._mark(exchange, meter.usage())
        await inbound.start(200, response_headers(exchange, inbound))
        await self._keep(exchange, first, last=chunks.done)
        await inbound.write(first)
        self._shrink(exchange, meter)
        while not chunks.done:
            events = await self._next(answer, inbound)
            if events is None:
                raise Fault("upstream_failed", internal="stream ended without [DONE]")
            part = chunks.translate(events)
            if meter.seen:
                self.progress.note(exchange.request_id, exchange.attempt, meter.usage())
            if part:
                await self._keep(exchange, part, last=chunks.done)
                await inbound.write(part)
        exchange.outcome = Outcome.COMPLETED

    async def _keep(self, exchange: Exchange, part: bytes, *, last: bool) -> None:
        """Record what is about to be sent, for repeats of a request with a key; the last part leaves only after all of
        it is stored."""
        claim = exchange.claim
        if claim is None or claim.recording is None:
            return
        claim.recording.add(part)
        if last:
            region = "" if exchange.upstream is None else exchange.upstream.region
            await self.repeats.keep(claim, region, stream=exchange.meter is not None)

    def _shrink(self, exchange: Exchange, meter: StreamMeter) -> None:
        """Hold no more than the engine's own count of the prompt and all that may still be generated."""
        call, hold, card = exchange.call, exchange.hold, exchange.card
        assert call is not None and hold is not None and card is not None
        prompt = meter.usage().prompt if meter.seen and call.prompts == 1 else call.prompt_bound
        if call.prompt_bound - prompt >= SLACK_TOKENS_MIN and hold.asked.amounts_bounded:
            micro_yen = upper_bound(prompt, call.completion_bound, card)
            self.holds.shrink(hold, prompt + call.completion_bound, micro_yen)

    async def _next(self, answer: Answer, inbound: Inbound) -> list[bytes] | None:
        silent_s = 0.0
        while silent_s < self.timeouts.idle_s:
            wait_s = min(KEEP_ALIVE_S, self.timeouts.idle_s - silent_s)
            try:
                async with asyncio.timeout(wait_s):
                    return await answer.events()
            except TimeoutError:
                silent_s += wait_s
                await inbound.write(KEEP_ALIVE)
            except Broken as error:
                raise Fault("upstream_failed", internal=str(error)) from error
        raise Fault("upstream_timeout", phase="idle")


async def _stored(row: "asyncio.Future[bool]", what: str) -> bool:
    if row.done() and row.exception() is None:
        return row.result()
    try:
        async with asyncio.timeout(OPEN_S_MAX):
            return await asyncio.shield(row)
    except Exception as error:
        raise Fault("store_unavailable", retry_after_s=1, internal=f"{what}: {error!r}") from error


class Chunks:
    """Translates an engine's events into what this client asked for."""

    def __init__(self, exchange: Exchange, meter: StreamMeter) -> None:
        assert exchange.call is not None
        self._exchange = exchange
        self._meter = meter
        self._include_usage = exchange.call.include_usage
        self._answer_id = _answer_id(exchange)
        self.done = False

    def translate(self, events: list[bytes]) -> bytes:
        """The client's bytes for these events; empty when all of them were for us only.

        Raises `Fault("upstream_failed")` for an event that is no chunk.
        """
        parts = []
        for data in events:
            if data == b"[DONE]":
                self.done = True
                parts.append(DONE)
                break
            try:
                chunk = msgspec.json.decode(data)
                parts.append(self._chunk(chunk))
            except (msgspec.DecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise Fault("upstream_failed", internal=f"chunk: {error!r}: {data[:200]!r}") from error
        return b"".join(parts)

    def _chunk(self, chunk: dict[str, Any]) -> bytes:
        self._meter.add(chunk)
        if not chunk["choices"]:
            if not self._include_usage or not chunk.get("usage"):
                return b""
            clean = scrub(chunk, self._answer_id, self._exchange.model)
            clean["usage"] = public_usage(chunk["usage"])
            return event(clean)
        clean = scrub(chunk, self._answer_id, self._exchange.model)
        clean.pop("usage", None)
        if self._include_usage:
            clean["usage"] = None
        for choice in clean["choices"]:
            if choice.get("finish_reason"):
                self._exchange.finish_reason = _word(choice["finish_reason"])
        return event(clean)


def _answer_id(exchange: Exchange) -> str:
    return f"{'chatcmpl' if exchange.action == 'chat' else 'cmpl'}-{exchange.request_id}"


def _word(value: object) -> str:
    """An engine's word as the journal can hold it."""
    return "".join(character for character in str(value or "")[:32] if character.isprintable())
