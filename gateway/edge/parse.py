"""From the bytes of a body to a validated call, its upper bound in tokens, and the form that is sent upstream.

What is judged is what is sent: the upstream's body is made from the parsed tree, never from the client's bytes.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import jiter
import msgspec

from gateway.edge import requests
from gateway.edge.estimate import chat_bound, completion_bound, prompt_count
from gateway.faults import Fault
from gateway.upstreams.types import Profile

DEFAULT_SHARE = 4
MESSAGES_MAX = 4_096
PROMPTS_MAX = 512
NESTING_MAX = 200
# A body may say `[]` three million times, which is 4 s of parsing and 200 MB of objects. Bytes are counted in no time.
SAMPLE_BYTES = 1024 * 1024
CONTAINERS_MAX = 32_768
COMMAS_MAX = 262_144
QUOTES_MAX = 262_144
_STREAM_OPTIONS = {"include_usage": True, "continuous_usage_stats": True}


@dataclass(frozen=True, slots=True)
class Call:
    """A validated request. Bounds in tokens: no engine's count can exceed them.

    `choices` is the number of answers per prompt, `prompts` the number of those; `body` what the engine gets (without
    its own model name).
    """

    stream: bool
    include_usage: bool
    choices: int
    max_tokens: int
    prompt_bound: int
    completion_bound: int
    body: dict[str, Any]
    prompts: int = 1


class Census:
    """Counts what a body holds while it arrives; piece by piece, so that nobody waits for a large one."""

    def __init__(self) -> None:
        self._containers = self._commas = 0

    def add(self, piece: bytes) -> None:
        """Count another piece, texts included."""
        self._containers += piece.count(b"[") + piece.count(b"{")
        self._commas += piece.count(b",")

    @property
    def crowded(self) -> bool:
        """Whether there may be more values than are taken."""
        return self._containers > CONTAINERS_MAX or self._commas > COMMAS_MAX


def parse_json(raw: bytes, *, crowded: bool = False) -> dict[str, Any]:
    """One JSON object (RFC 8259) without duplicate keys, lone surrogates, NaN or deep nesting. `crowded` tells that a
    `Census` of it found many values, which are then counted again without the texts.

    Raises `Fault` with `invalid_json`, `duplicate_key`, `nesting_too_deep`, `too_many_values` or `invalid_type`.
    """
    if crowded:
        for part in (raw[:SAMPLE_BYTES], raw):  # the beginning usually decides it
            census = Census()
            census.add(_without_texts(part))
            if census.crowded:
                raise Fault("too_many_values", limit=COMMAS_MAX)
    try:
        tree = jiter.from_json(raw, allow_inf_nan=False, catch_duplicate_keys=True, cache_mode="keys")
    except ValueError as error:
        raise _json_fault(str(error)) from None
    if not isinstance(tree, dict):
        raise Fault("invalid_type", detail="expected an object")
    if _HUGE_NUMBER.search(raw):
        path = _infinity(tree, "")
        if path is not None:
            raise Fault("invalid_value", param=path[1:PARAM_CHARS_MAX], detail="a number beyond the range of a double")
    return tree


# A number that may overflow to infinity, for which JSON has no form: it would reach the engine as null.
_HUGE_NUMBER = re.compile(rb"[eE]\+?[0-9]{3}|[0-9]{309}")


def _infinity(value: object, path: str) -> str | None:
    """The path of the first infinite number, or None."""
    if isinstance(value, float):
        return path if math.isinf(value) else None
    items: Iterable[tuple[str, object]] = ()
    if isinstance(value, dict):
        items = ((f"{path}.{name}", item) for name, item in value.items())
    elif isinstance(value, list):
        items = ((f"{path}[{number}]", item) for number, item in enumerate(value))
    return next((found for name, item in items if (found := _infinity(item, name)) is not None), None)


def _without_texts(raw: bytes) -> bytes:
    """What stands between the texts of a JSON document: brackets and commas inside a text are no values."""
    bare = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    if bare.count(b'"') > QUOTES_MAX:
        raise Fault("too_many_values", limit=QUOTES_MAX // 2)
    return b"".join(bare.split(b'"')[::2])


def model_of(tree: dict[str, Any]) -> str:
    """The model that the body names. Raises `Fault` with `missing_parameter` or `invalid_type`."""
    model = tree.get("model")
    if model is None:
        raise Fault("missing_parameter", param="model")
    if not isinstance(model, str):
        raise Fault("invalid_type", param="model", detail="expected str")
    return model


def chat_call(tree: dict[str, Any], profile: Profile) -> Call:
    """A chat completion, validated against `profile`. Raises `Fault` naming the field."""
    messages = tree.get("messages")
    if isinstance(messages, list) and not 0 < len(messages) <= MESSAGES_MAX:
        raise Fault("invalid_value", param="messages", detail=f"1 to {MESSAGES_MAX} messages")
    request, extra = _validated(tree, requests.ChatRequest, profile)
    if request.stream_options is not None and not request.stream:
        raise Fault("invalid_value", param="stream_options", detail="only with stream: true")
    prompt_bound = chat_bound(request, profile)
    choices = request.n or 1
    asked = request.max_completion_tokens or request.max_tokens
    return _call(tree, requests.PASSED_CHAT, extra, request, profile, prompt_bound, choices, choices, asked)


def completion_call(tree: dict[str, Any], profile: Profile) -> Call:
    """A completion, validated against `profile`. Raises `Fault` naming the field."""
    prompt = tree.get("prompt")
    if isinstance(prompt, list) and not prompt:
        raise Fault("invalid_value", param="prompt", detail="at least one prompt")
    request, extra = _validated(tree, requests.CompletionRequest, profile)
    if request.stream_options is not None and not request.stream:
        raise Fault("invalid_value", param="stream_options", detail="only with stream: true")
    choices = request.n or 1
    if request.best_of is not None and request.best_of < choices:
        raise Fault("invalid_value", param="best_of", detail="not smaller than n")
    prompts = prompt_count(request.prompt)
    if prompts > PROMPTS_MAX:
        raise Fault("invalid_value", param="prompt", detail=f"at most {PROMPTS_MAX} prompts")
    prompt_bound = completion_bound(request, profile)
    generated = max(choices, request.best_of or 1) * prompts
    call = _call(
        tree, requests.PASSED_COMPLETION, extra, request, profile, prompt_bound, choices, generated, request.max_tokens
    )
    return replace(call, prompts=prompts)


def _call(
    tree: dict[str, Any],
    passed: frozenset[str],
    extra: dict[str, Any],
    request: requests.ChatRequest | requests.CompletionRequest,
    profile: Profile,
    prompt_bound: int,
    choices: int,
    generated: int,
    asked: int | None,
) -> Call:
    # Without a wish: what surely fits when that is much, else a quarter of the context. The bound counts bytes:
    # a prompt that looks too long may well leave room. If it does not, the engine says so and nothing is charged.
    surely = profile.context_tokens - prompt_bound
    unasked = max(surely, profile.context_tokens // DEFAULT_SHARE, 1)
    max_tokens = min(asked or unasked, profile.max_output_tokens)
    body = {name: value for name, value in tree.items() if name in passed and value is not None}
    body.update(extra)
    if extra:  # whatever of it an engine may write into the prompt
        prompt_bound += len(msgspec.json.encode(extra))
    body["max_tokens"] = max_tokens
    stream = bool(request.stream)
    if stream:
        body["stream"] = True
        body["stream_options"] = _STREAM_OPTIONS
    options = request.stream_options
    return Call(
        stream=stream,
        include_usage=bool(options is not None and options.include_usage),
        choices=choices,
        max_tokens=max_tokens,
        prompt_bound=prompt_bound,
        completion_bound=max_tokens * generated,
        body=body,
    )


def _validated(tree: dict[str, Any], form: type[Any], profile: Profile) -> tuple[Any, dict[str, Any]]:
    extra: dict[str, Any] = {}
    if profile.extra_params:
        extra = {name: tree[name] for name in profile.extra_params if name in tree}
        tree = {name: value for name, value in tree.items() if name not in extra}
    try:
        return msgspec.convert(tree, form), extra
    except msgspec.ValidationError as error:
        raise _field_fault(str(error)) from None


_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*?)`(?: - at `\$\.?(?P<path>.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*?)`(?: - at `\$\.?(?P<path>.*)`)?$", re.DOTALL)
_OTHER = re.compile(r"(?P<detail>.*?)(?: - at `(?:key in )?\$\.?(?P<path>.*)`)?$", re.DOTALL)
_WRONG_TYPE = re.compile(r"Expected `[^`]*`, got `")
PARAM_CHARS_MAX = 200


def _field_fault(message: str) -> Fault:
    for pattern, code in ((_UNKNOWN, "unknown_parameter"), (_MISSING, "missing_parameter")):
        found = pattern.match(message)
        if found:
            path = ".".join(part for part in (found["path"], found["name"]) if part)
            return Fault(code, param=path[:PARAM_CHARS_MAX])
    found = _OTHER.match(message)
    path, detail = (found["path"] or "", found["detail"]) if found else ("", message)
    code = "invalid_type" if _WRONG_TYPE.match(message) else "invalid_value"
    return Fault(code, param=path[:PARAM_CHARS_MAX] or None, detail=detail.replace("`", "")[:PARAM_CHARS_MAX])


_DUPLICATE = re.compile(r'Detected duplicate key "(?P<key>.*)" at line', re.DOTALL)


def _json_fault(message: str) -> Fault:
    duplicate = _DUPLICATE.match(message)
    if duplicate:
        return Fault("duplicate_key", param=duplicate["key"][:PARAM_CHARS_MAX])
    if message.startswith("recursion limit"):
        return Fault("nesting_too_deep", limit=NESTING_MAX)
    return Fault("invalid_json", detail=message[:PARAM_CHARS_MAX])
