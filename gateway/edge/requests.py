"""The OpenAI request bodies the gateway takes: an allow list with types and ranges, nothing else passes.

Field names and ranges follow OpenAI's API reference for chat completions and completions. A field the model's
catalogue entry lists in `extra_params` is taken out before and passed on as it is.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

PositiveInt = Annotated[int, Meta(ge=1)]
Choices = Annotated[int, Meta(ge=1, le=16)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Stop = str | Annotated[list[str], Meta(max_length=16)] | None


class _Strict(Struct, forbid_unknown_fields=True):
    pass


class TextPart(_Strict, tag_field="type", tag="text"):
    """Text."""

    text: str


class ImageUrl(_Strict):
    """A data URL; `detail` has no effect on the engines and is accepted for the clients' sake."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(_Strict, tag_field="type", tag="image_url"):
    """An image."""

    image_url: ImageUrl


class AudioPart(_Strict, tag_field="type", tag="input_audio"):
    """Audio; refused for models that do not list it."""

    input_audio: dict[str, Any]


class FilePart(_Strict, tag_field="type", tag="file"):
    """A file; refused, no model takes one yet."""

    file: dict[str, Any]


class RefusalPart(_Strict, tag_field="type", tag="refusal"):
    """A refusal of an earlier turn."""

    refusal: str


Part = TextPart | ImagePart | AudioPart | FilePart | RefusalPart


class FunctionCall(_Strict):
    """Name and JSON arguments of a tool call."""

    name: str
    arguments: str


class ToolCall(_Strict):
    """A call the model asked for in an earlier turn."""

    id: str
    type: Literal["function"]
    function: FunctionCall
    index: int | None = None


class SystemMessage(_Strict, tag_field="role", tag="system"):
    """Instructions."""

    content: str | list[Part]
    name: str | None = None


class DeveloperMessage(_Strict, tag_field="role", tag="developer"):
    """Instructions, under the newer name."""

    content: str | list[Part]
    name: str | None = None


class UserMessage(_Strict, tag_field="role", tag="user"):
    """What the user says."""

    content: str | list[Part]
    name: str | None = None


class AssistantMessage(_Strict, tag_field="role", tag="assistant"):
    """What the model said. Clients send answers back whole, so the fields of an answer are taken."""

    content: str | list[Part] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    function_call: None = None
    audio: None = None
    annotations: list[Any] | None = None


class ToolMessage(_Strict, tag_field="role", tag="tool"):
    """What a tool answered."""

    content: str | list[Part]
    tool_call_id: str
    name: str | None = None


Message = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage


class FunctionDefinition(_Strict):
    """A function the model may call; `parameters` is a JSON schema."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Strict):
    """A tool the model may call."""

    type: Literal["function"]
    function: FunctionDefinition


class ChosenFunction(_Strict):
    """The function that must be called."""

    name: Name


class ToolChoice(_Strict):
    """The tool that must be called."""

    type: Literal["function"]
    function: ChosenFunction


class JsonSchema(_Strict):
    """A named JSON schema."""

    name: Name
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseFormat(_Strict):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(_Strict):
    """Whether the client wants usage in its stream."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class _Common(_Strict, kw_only=True):
    model: Name
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    max_tokens: PositiveInt | None = None
    n: Choices | None = None
    presence_penalty: Penalty | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Stop = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Temperature | None = None
    top_p: Fraction | None = None
    user: str | None = None


class ChatRequest(_Common, kw_only=True):
    """Body of `POST /v1/chat/completions`."""

    messages: list[Message]
    logprobs: bool | None = None
    max_completion_tokens: PositiveInt | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    response_format: ResponseFormat | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    tools: Annotated[list[Tool], Meta(max_length=128)] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    # Documented, without effect on generation here: taken and not passed on.
    metadata: dict[str, str] | None = None
    modalities: list[Literal["text"]] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: Literal[False] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    # Documented and not offered: only their absence is a value.
    audio: None = None
    function_call: None = None
    functions: None = None
    prediction: None = None
    web_search_options: None = None


class CompletionRequest(_Common, kw_only=True):
    """Body of `POST /v1/completions`."""

    prompt: str | list[str | int | list[int]]
    best_of: Choices | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    suffix: str | None = None


_GENERATION = frozenset(
    {"frequency_penalty", "logit_bias", "n", "presence_penalty", "seed", "stop", "temperature", "top_p"}
)
PASSED_CHAT = _GENERATION | {
    "messages", "logprobs", "parallel_tool_calls", "reasoning_effort", "response_format", "tool_choice", "tools",
    "top_logprobs",
}  # fmt: skip
PASSED_COMPLETION = _GENERATION | {"prompt", "best_of", "echo", "logprobs", "suffix"}
