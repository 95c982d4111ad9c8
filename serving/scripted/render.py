"""The bytes of an answer, field for field as vLLM 0.29 writes them.

Source: ``vllm/entrypoints/openai/{chat_completion,completion}/{protocol,serving}.py`` of 0.29.0. Chunks are written
there with ``exclude_unset`` (so a field that was set to None appears as null, an untouched one not at all), full
answers with every field. The constant parts are built once per answer; a chunk is then a few joins of bytes.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from serving.scripted.asks import Ask
from serving.scripted.generate import ChoicePlan, Delta

FINGERPRINT = "scripted-1"
DONE = b"data: [DONE]\n\n"
encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Style:
    """What varies between the answers of one dialect: cached prompt tokens to report, whether reasoning tokens are
    reported (vLLM does where a reasoning parser is configured), whether usage is sent at all, and in every chunk."""

    cached_tokens: int = 0
    reasons: bool = False
    usage: bool = True
    continuous: bool = True


class Renderer:
    """Renders one answer. ``index`` is a choice's number, ``generated`` and ``reasoning`` its tokens so far."""

    object_full: str
    object_chunk: str
    id_prefix: str

    def __init__(self, ask: Ask, attempt_id: str, created: int, style: Style) -> None:
        self.ask = ask
        self._identity = {"id": f"{self.id_prefix}-{attempt_id}", "created": created, "model": ask.model}
        self._style = style
        self._continuous = ask.continuous_usage and style.usage and style.continuous
        head = {"id": self._identity["id"], "object": self.object_chunk, "created": created, "model": ask.model}
        self._head = b"data: " + encode(head)[:-1] + b',"choices":'

    def opening(self) -> list[bytes]:
        """Events before the first delta."""
        return []

    def delta(self, index: int, delta: Delta, generated: int, reasoning: int) -> bytes:
        """One delta that is not the last of its choice; empty bytes where vLLM sends nothing."""
        raise NotImplementedError

    def last(self, index: int, delta: Delta, plan: ChoicePlan) -> bytes:
        """The last delta of a choice, with its finish reason."""
        raise NotImplementedError

    def usage_chunk(self, plans: Sequence[ChoicePlan]) -> bytes:
        """The chunk without choices that holds the sums; empty when usage was not asked for or is withheld."""
        if not (self.ask.include_usage and self._style.usage):
            return b""
        usage = _without_none(self._usage_full(plans))
        tail = encode({"usage": usage, "system_fingerprint": FINGERPRINT})[1:]
        return self._head + b"[]," + tail + b"\n\n"

    def error_event(self, message: str) -> bytes:
        """What vLLM sends when generation fails under way; no usage follows."""
        return b"data: " + self.error_body(message) + b"\n\n"

    def error_body(self, message: str) -> bytes:
        """A failure of the engine as JSON."""
        return encode({"error": {"message": message, "type": "InternalServerError", "param": None, "code": 500}})

    def full(self, plans: Sequence[ChoicePlan]) -> bytes:
        """The whole answer of a request that does not stream."""
        return encode(
            {
                "id": self._identity["id"],
                "object": self.object_full,
                "created": self._identity["created"],
                "model": self.ask.model,
                "choices": [self._choice(index, plan) for index, plan in enumerate(plans)],
                "service_tier": None,
                "system_fingerprint": FINGERPRINT,
                "usage": self._usage_full(plans) if self._style.usage else None,
                **self._extras(),
            }
        )

    def _choice(self, index: int, plan: ChoicePlan) -> dict[str, Any]:
        raise NotImplementedError

    def _extras(self) -> dict[str, Any]:
        return {"kv_transfer_params": None, "ec_transfer_params": None, "metrics": None}

    def _completion_details(self, reasoning: int) -> dict[str, int] | None:
        return {"reasoning_tokens": reasoning} if self._style.reasons and self.ask.chat else None

    def _usage_full(self, plans: Sequence[ChoicePlan]) -> dict[str, Any]:
        prompt = sum(self.ask.prompt_tokens)
        completion = sum(plan.tokens for plan in plans)
        return {
            "prompt_tokens": prompt,
            "total_tokens": prompt + completion,
            "completion_tokens": completion,
            "prompt_tokens_details": {
                "cached_tokens": self._style.cached_tokens,
                "created_cache_tokens": 0 if self.ask.chat else None,
                "multimodal_tokens": {"image": self.ask.image_tokens} if self.ask.image_tokens else None,
            },
            "completion_tokens_details": self._completion_details(sum(plan.reasoning_tokens for plan in plans)),
        }

    def _usage_so_far(self, index: int, generated: int, reasoning: int) -> bytes:
        """Cumulative usage of one choice, counted with its own prompt only."""
        if not self._continuous:
            return b""
        prompt = self.ask.prompt_tokens[index // self.ask.n]
        usage = b',"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d' % (
            prompt,
            prompt + generated,
            generated,
        )
        return usage + self._details_so_far(reasoning) + b"}"

    def _details_so_far(self, reasoning: int) -> bytes:
        return b""

    def _fingerprint(self) -> bytes:
        """vLLM stamps the last chunk of a choice only when no usage chunk follows."""
        return b"" if self.ask.include_usage else b',"system_fingerprint":"%s"' % FINGERPRINT.encode()


class ChatRenderer(Renderer):
    object_full, object_chunk, id_prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def opening(self) -> list[bytes]:
        start = b'"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
        return [
            self._head
            + b'[{"index":%d,' % index
            + start
            + self._usage_so_far(index, 0, 0)
            + b',"prompt_token_ids":null,"prompt_text":null}\n\n'
            for index in range(self.ask.choices)
        ]

    def delta(self, index: int, delta: Delta, generated: int, reasoning: int) -> bytes:
        if delta.kind == "reasoning" and not self.ask.include_reasoning:
            return b""
        return b"".join(
            (
                self._head,
                b'[{"index":%d,"delta":' % index,
                delta.chat,
                b',"logprobs":',
                self._logprobs(delta),
                b',"finish_reason":null,"token_ids":null}]',
                self._usage_so_far(index, generated, reasoning),
                b"}\n\n",
            )
        )

    def last(self, index: int, delta: Delta, plan: ChoicePlan) -> bytes:
        hidden = delta.kind == "reasoning" and not self.ask.include_reasoning
        return b"".join(
            (
                self._head,
                b'[{"index":%d,"delta":' % index,
                b"{}" if hidden else delta.chat,
                b',"logprobs":',
                b"null" if hidden else self._logprobs(delta),
                b',"finish_reason":%b,"stop_reason":%b,"token_ids":null}]'
                % (encode(plan.finish_reason), encode(plan.stop_reason)),
                self._usage_so_far(index, plan.tokens, plan.reasoning_tokens),
                self._fingerprint(),
                b"}\n\n",
            )
        )

    def _details_so_far(self, reasoning: int) -> bytes:
        return b',"completion_tokens_details":' + encode(self._completion_details(reasoning))

    def _choice(self, index: int, plan: ChoicePlan) -> dict[str, Any]:
        said = [delta for delta in plan.deltas if delta.kind != "reasoning" or self.ask.include_reasoning]
        reasoning = plan.text("reasoning") if self.ask.include_reasoning else ""
        content: str | None = plan.text("content")
        if plan.calls and not (self.ask.tools and (self.ask.tools.forced or self.ask.tools.required)):
            content = content or None  # an empty text beside calls that were forced, null beside freely made ones
        message: dict[str, Any] = {
            "role": "assistant",
            "content": content,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
        }
        if plan.calls:
            message["tool_calls"] = [
                {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in plan.calls
            ]
        return {
            "index": index,
            "message": message | {"reasoning": reasoning or None},
            "logprobs": None if self.ask.logprobs is None else {"content": self._token_logprobs(said)},
            "finish_reason": plan.finish_reason,
            "stop_reason": plan.stop_reason,
            "token_ids": None,
            "routed_experts": None,
        }

    def _extras(self) -> dict[str, Any]:
        return {"prompt_logprobs": None, "prompt_token_ids": None, "prompt_text": None, **super()._extras()}

    def _logprobs(self, delta: Delta) -> bytes:
        if self.ask.logprobs is None:
            return b"null"
        return encode({"content": self._token_logprobs([delta])})

    def _token_logprobs(self, deltas: Sequence[Delta]) -> list[dict[str, Any]]:
        top = self.ask.logprobs or 0
        return [
            _token(token, _logprob(token)) | {"top_logprobs": [_token(*rival) for rival in _rivals(token, top)]}
            for delta in deltas
            for token in delta.tokens
        ]


class CompletionRenderer(Renderer):
    object_full, object_chunk, id_prefix = "text_completion", "text_completion", "cmpl"

    def __init__(self, ask: Ask, attempt_id: str, created: int, style: Style) -> None:
        super().__init__(ask, attempt_id, created, style)
        self._offsets = [0] * ask.choices

    def delta(self, index: int, delta: Delta, generated: int, reasoning: int) -> bytes:
        return self._chunk(index, delta, b"null", b"null", self._usage_so_far(index, generated, reasoning))

    def last(self, index: int, delta: Delta, plan: ChoicePlan) -> bytes:
        usage = self._usage_so_far(index, plan.tokens, plan.reasoning_tokens) + self._fingerprint()
        return self._chunk(index, delta, encode(plan.finish_reason), encode(plan.stop_reason), usage)

    def _chunk(self, index: int, delta: Delta, finish: bytes, stop: bytes, tail: bytes) -> bytes:
        logprobs = b"null"
        if self.ask.logprobs is not None:
            logprobs = encode(self._logprobs([delta], self._offsets[index]))
            self._offsets[index] += len(delta.text)
        body = b'[{"index":%d,"text":%b,"logprobs":%b,"finish_reason":%b,"stop_reason":%b,' % (
            index,
            encode(delta.text),
            logprobs,
            finish,
            stop,
        )
        return b"".join((self._head, body, b'"prompt_token_ids":null,"token_ids":null}]', tail, b"}\n\n"))

    def _choice(self, index: int, plan: ChoicePlan) -> dict[str, Any]:
        return {
            "index": index,
            "text": plan.text("content"),
            "logprobs": None if self.ask.logprobs is None else self._logprobs(plan.deltas, 0),
            "finish_reason": plan.finish_reason,
            "stop_reason": plan.stop_reason,
            "token_ids": None,
            "prompt_logprobs": None,
            "prompt_token_ids": None,
            "routed_experts": None,
        }

    def _logprobs(self, deltas: Sequence[Delta], offset: int) -> dict[str, Any]:
        tokens = [token for delta in deltas for token in delta.tokens]
        offsets = []
        for token in tokens:
            offsets.append(offset)
            offset += len(token)
        return {
            "text_offset": offsets,
            "token_logprobs": [_logprob(token) for token in tokens],
            "tokens": tokens,
            "top_logprobs": [dict(_rivals(token, max(1, self.ask.logprobs or 0))) for token in tokens],
        }


def _logprob(token: str) -> float:
    """A made-up log probability between -1 and 0, the same for the same token."""
    return -(zlib.crc32(token.encode("utf-8", "replace")) % 1000) / 1000


def _rivals(token: str, count: int) -> list[tuple[str, float]]:
    """The sampled token and ``count - 1`` less likely ones."""
    most = _logprob(token)
    return [(token if i == 0 else f"<{i}>", most - i) for i in range(count)]


def _token(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode("utf-8", "replace"))}


def _without_none(value: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _without_none(item) if isinstance(item, dict) else item
        for name, item in value.items()
        if item is not None
    }
