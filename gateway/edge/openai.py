"""The OpenAI dialect: how errors, answers and chunks look, and which of an engine's fields may pass.

Only documented fields pass (an allow list at each level), so that nothing an engine adds one day reaches a client
unseen. `reasoning` and `reasoning_content` are the two names under which engines give a model's reasoning.
"""

from typing import Any

import msgspec

from gateway.faults import Fault, Language

_TOP = frozenset({"id", "object", "created", "model", "choices", "usage", "system_fingerprint", "service_tier"})
_CHOICE = frozenset({"index", "message", "delta", "text", "finish_reason", "logprobs"})
_MESSAGE = frozenset({"role", "content", "tool_calls", "refusal", "reasoning", "reasoning_content"})
_OPTIONAL = ("refusal", "reasoning", "reasoning_content", "tool_calls")
_USAGE = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})
_USAGE_DETAILS = {
    "prompt_tokens_details": frozenset(
        {"cached_tokens", "cache_write_tokens", "audio_tokens", "image_tokens", "text_tokens"}
    ),
    "completion_tokens_details": frozenset(
        {"reasoning_tokens", "audio_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens"}
    ),
}

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


def error_body(fault: Fault, language: Language, request_id: str) -> bytes:
    """`{"error": {...}}` as bytes (see `wire.md` in the documentation of the interface)."""
    error: dict[str, object] = {
        "message": fault.text(language),
        "type": fault.code.type,
        "param": fault.param,
        "code": fault.code.name,
        "cure": fault.cure(language),
        "request_id": request_id,
    }
    if fault.rule is not None:
        error["rule"] = fault.rule
    if fault.licence is not None:
        error["licence"] = fault.licence
    return msgspec.json.encode({"error": error})


def event(payload: object) -> bytes:
    """One server-sent event (WHATWG HTML §9.2) with `payload` as JSON."""
    return b"data: " + msgspec.json.encode(payload) + b"\n\n"


def scrub(answer: dict[str, Any], answer_id: str, model: str) -> dict[str, Any]:
    """The fields of an engine's answer or chunk that a client may see, under our id and the model's public name.

    `usage` is left to the caller. Raises `KeyError`, `TypeError` or `AttributeError` for what is no answer at all.
    """
    clean = {name: value for name, value in answer.items() if name in _TOP}
    clean["id"] = answer_id
    clean["model"] = model
    clean["choices"] = [_choice(choice) for choice in answer["choices"]]
    for name in ("system_fingerprint", "service_tier"):
        if clean.get(name) is None:
            clean.pop(name, None)
    return clean


def _choice(choice: dict[str, Any]) -> dict[str, Any]:
    clean = {name: value for name, value in choice.items() if name in _CHOICE}
    for name in ("message", "delta"):
        if name in clean:
            clean[name] = _message(clean[name])
    return clean


def _message(message: dict[str, Any]) -> dict[str, Any]:
    clean = {name: value for name, value in message.items() if name in _MESSAGE}
    for name in _OPTIONAL:
        if name in clean and not clean[name]:
            del clean[name]
    return clean


def public_usage(usage: dict[str, Any]) -> dict[str, Any]:
    """An engine's `usage` object reduced to the documented fields that it filled."""
    clean = {name: value for name, value in usage.items() if name in _USAGE}
    for name, allowed in _USAGE_DETAILS.items():
        details = {key: value for key, value in (usage.get(name) or {}).items() if key in allowed and value is not None}
        if details:
            clean[name] = details
    return clean
