"""The traffic: which chats are asked for and how often, which requests must be refused, and what a good answer is."""

import json
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from loadtests.load.plan import Target

SMALL, REASONING, TOOLS, PACED = "scripted-small", "scripted-reasoning", "scripted-tools", "scripted-paced"
MODELS = (SMALL, REASONING, TOOLS, PACED)
# What vLLM takes and the gateway's clients may not say: it makes the relay's engine send the very events that the
# gateway asks its own engine for.
_ENGINE_OPTIONS = {"include_usage": True, "continuous_usage_stats": True}
_SENTENCES = (
    "What does the clerk at the checkpoint write into the book?",
    "箱根の関所では何を確かめましたか。",
    "Describe the tea road in spring, and the inns along it.",
    "峠の茶屋で出されるものを教えてください。",
)
_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "unit": {"type": "string"}}},
    },
}


@dataclass(frozen=True, slots=True)
class Chat:
    """One kind of request to a model. `kind` is the row of the table: rows are compared target against target."""

    kind: str
    weight: int
    model: str = SMALL
    path: str = "/chat/completions"
    fields: Mapping[str, Any] = field(default_factory=dict)
    usage: bool = True

    @property
    def stream(self) -> bool:
        """Whether the answer comes in events."""
        return bool(self.fields.get("stream"))

    def body(self, target: Target, rng: random.Random) -> str:
        """A request with a prompt of 1 to 8 sentences; what differs between targets is only who may ask for what."""
        said = " ".join(rng.choices(_SENTENCES, k=rng.randint(1, 8)))
        body: dict[str, Any] = {"model": self.model, "max_tokens": rng.randint(16, 96), **self.fields}
        body |= {"messages": [{"role": "user", "content": said}]} if "chat" in self.path else {"prompt": said}
        if self.stream and target == "relay":
            body["stream_options"] = _ENGINE_OPTIONS
        elif self.stream and self.usage:
            body["stream_options"] = {"include_usage": True}
        return json.dumps(body)


CHATS = (
    Chat("whole", 8),
    Chat("whole", 1, fields={"n": 2}),
    Chat("whole", 1, TOOLS, fields={"tools": [_TOOL]}),
    Chat("whole", 1, path="/completions"),
    Chat("stream", 6, fields={"stream": True}),
    Chat("stream", 3, fields={"stream": True}, usage=False),
    Chat("stream", 1, REASONING, fields={"stream": True}),
    # 50 tokens per second: some streams are always open while the others come and go.
    Chat("paced", 1, PACED, fields={"stream": True, "max_tokens": 25}),
)
KINDS = tuple(dict.fromkeys(chat.kind for chat in CHATS))


def draw(models: Collection[str], rng: random.Random) -> Chat:
    """A chat with one of `models`."""
    allowed = [chat for chat in CHATS if chat.model in models]
    return rng.choices(allowed, [chat.weight for chat in allowed])[0]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that must be refused with `status` and `code`. `key` says whose key: a partner's, or the one that the
    plan keeps for this code; None: one that does not exist."""

    code: str
    status: int
    key: str | None
    fields: Mapping[str, Any] = field(default_factory=dict)

    def body(self) -> str:
        """The request."""
        said = [{"role": "user", "content": _SENTENCES[0]}]
        return json.dumps({"model": SMALL, "max_tokens": 16, "messages": said, **self.fields})


REFUSALS = (
    Refusal("invalid_api_key", 401, None),
    Refusal("model_not_found", 404, "partner", {"model": "no-such-model"}),
    Refusal("unknown_parameter", 400, "partner", {"priority": 1}),
    Refusal("insufficient_quota", 429, "plan"),
    Refusal("rate_limit_exceeded", 429, "plan"),
)


def usage_of(chat: Chat, target: Target, content: bytes) -> tuple[int, int] | None:
    """Prompt and completion tokens that an answer to `chat` states, None where it must state none.

    Raises `ValueError`, `KeyError` or `TypeError` for an answer that is not complete or not what was asked for.
    """
    answer = _last_event(content) if chat.stream else json.loads(content)
    if chat.stream and target == "sekisho" and not chat.usage:
        if b'"usage"' in content:
            raise ValueError("usage in a stream that did not ask for it")
        return None
    if not chat.stream and len(answer["choices"]) != chat.fields.get("n", 1):
        raise ValueError(f"{len(answer['choices'])} choices")
    usage = answer["usage"]
    return usage["prompt_tokens"], usage["completion_tokens"]


def _last_event(content: bytes) -> Any:
    events = [part for part in content.split(b"\n\n") if part.startswith(b"data: ")]
    if len(events) < 3 or events[-1] != b"data: [DONE]":
        raise ValueError(f"a stream of {len(events)} events that ends with {events[-1:]}")
    return json.loads(events[-2].removeprefix(b"data: "))


def refusal_failure(refusal: Refusal, status: int, content: bytes) -> str:
    """Empty when the answer is the refusal that was expected, else what came instead."""
    try:
        code = json.loads(content)["error"]["code"]
    except (ValueError, KeyError, TypeError):
        code = content[:200]
    expected, got = (refusal.status, refusal.code), (status, code)
    return "" if got == expected else f"expected {expected}, got {got}"
