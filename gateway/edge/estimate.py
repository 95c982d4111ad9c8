"""Upper bounds in tokens, without a tokenizer: a byte-level token is at least one byte of UTF-8."""

import base64
import binascii

import msgspec

from gateway.edge.requests import (
    AssistantMessage,
    ChatRequest,
    CompletionRequest,
    FilePart,
    ImagePart,
    Message,
    Part,
    RefusalPart,
    TextPart,
    ToolMessage,
)
from gateway.faults import Fault
from gateway.upstreams.types import Profile

IMAGE_BYTES_MAX = 5 * 1024 * 1024
_IMAGE_TYPES = (
    "data:image/png;base64,",
    "data:image/jpeg;base64,",
    "data:image/webp;base64,",
    "data:image/gif;base64,",
)
# A chat template writes tool definitions as JSON of its own layout, at most this many times the compact form.
_TOOLS_LAYOUT_FACTOR = 3
_TOOLS_OVERHEAD = 512


def _bytes(text: str | None) -> int:
    if not text:
        return 0
    return len(text) if text.isascii() else len(text.encode())


def prompt_count(prompt: str | list[str | int | list[int]]) -> int:
    """The number of prompts in a completion's `prompt` (a list of integers is one prompt of token ids)."""
    if isinstance(prompt, str):
        return 1
    return 1 if isinstance(prompt[0], int) else len(prompt)


def completion_bound(request: CompletionRequest, profile: Profile) -> int:
    """Upper bound of the prompt tokens of a completion. Raises `Fault` for a list of mixed kinds."""
    prompt = request.prompt
    overhead = profile.request_overhead_tokens + _bytes(request.suffix)
    if isinstance(prompt, str):
        return _bytes(prompt) + overhead
    kind = type(prompt[0])
    if any(type(item) is not kind for item in prompt):
        raise Fault("invalid_type", param="prompt", detail="a list of texts, or of token ids, or of lists of token ids")
    if kind is int:
        return len(prompt) + overhead
    return sum((_bytes(item) if isinstance(item, str) else len(_ids(item))) + overhead for item in prompt)


def _ids(item: int | list[int]) -> list[int]:
    if isinstance(item, int) or not item:
        raise Fault("invalid_value", param="prompt", detail="an empty prompt")
    return item


def chat_bound(request: ChatRequest, profile: Profile) -> int:
    """Upper bound of the prompt tokens of a chat. Raises `Fault` for media the model does not take."""
    total = profile.request_overhead_tokens
    for number, message in enumerate(request.messages):
        total += profile.message_overhead_tokens + _message_bound(message, profile, f"messages[{number}]")
    if request.tools:
        total += _TOOLS_OVERHEAD + _TOOLS_LAYOUT_FACTOR * len(msgspec.json.encode(request.tools))
    return total


def _message_bound(message: Message, profile: Profile, param: str) -> int:
    total = _bytes(message.name)
    if isinstance(message, AssistantMessage):
        total += _bytes(message.refusal) + _bytes(message.reasoning) + _bytes(message.reasoning_content)
        for call in message.tool_calls or ():
            total += _bytes(call.id) + _bytes(call.function.name) + 2 * _bytes(call.function.arguments)
            total += profile.message_overhead_tokens
    elif isinstance(message, ToolMessage):
        total += _bytes(message.tool_call_id)
    content = message.content
    if content is None or isinstance(content, str):
        return total + _bytes(content)
    for number, part in enumerate(content):
        total += _part_bound(part, profile, f"{param}.content[{number}]")
    return total


def _part_bound(part: Part, profile: Profile, param: str) -> int:
    if isinstance(part, TextPart):
        return _bytes(part.text)
    if isinstance(part, RefusalPart):
        return _bytes(part.refusal)
    if isinstance(part, ImagePart):
        check_image(part.image_url.url, profile, f"{param}.image_url.url")
        return profile.image_tokens
    raise Fault("media_not_supported", param=f"{param}.{'file' if isinstance(part, FilePart) else 'input_audio'}")


def check_image(url: str, profile: Profile, param: str) -> None:
    """Raises `Fault` unless `url` is a base64 data URL (RFC 2397) of an image within 5 MiB, for a model that sees."""
    if not url.startswith("data:"):
        raise Fault("remote_media_not_supported", param=param)
    if "image" not in profile.modalities:
        raise Fault("media_not_supported", param=param)
    prefix = next((prefix for prefix in _IMAGE_TYPES if url.startswith(prefix)), None)
    if prefix is None:
        raise Fault("invalid_value", param=param, detail="base64 of image/png, image/jpeg, image/webp or image/gif")
    if (len(url) - len(prefix)) * 3 // 4 > IMAGE_BYTES_MAX:
        raise Fault("media_too_large", param=param, limit=IMAGE_BYTES_MAX)
    try:
        base64.b64decode(url[len(prefix) :], validate=True)
    except (binascii.Error, ValueError):
        raise Fault("invalid_value", param=param, detail="not base64") from None
