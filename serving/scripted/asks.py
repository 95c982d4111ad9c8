"""What a client asked for: both dialects read into one :class:`Ask`.

Only the fields this engine acts on are typed; every other field is accepted and left alone, as vLLM does. The refusals
(:class:`BadRequestError`) have vLLM's shape: ``{"error": {"message", "type", "param", "code"}}``.
"""

from dataclasses import dataclass
from typing import Any

import msgspec

from serving.scripted.scenario import Scenario
from serving.scripted.tokens import count_conversation, count_text

N_MAX = 128
PROMPTS_MAX = 1024
TOP_LOGPROBS_MAX = 20
COMPLETION_MAX_TOKENS_DEFAULT = 16
DATA_URL = "data:"


class BadRequestError(Exception):
    """A request that is refused before anything is generated."""

    def __init__(
        self, message: str, param: str | None = None, status: int = 400, kind: str = "BadRequestError"
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": status}})


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class Common(msgspec.Struct):
    """Fields of both dialects."""

    model: str
    n: int | None = 1
    max_tokens: int | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    response_format: dict[str, Any] | None = None
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False


class Message(msgspec.Struct):
    role: str
    content: str | list[Any] | None = None
    tool_calls: list[dict[str, Any]] | None = None


class ChatRequest(Common, kw_only=True):
    messages: list[Message]
    max_completion_tokens: int | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = 0
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = True
    include_reasoning: bool = True


class CompletionRequest(Common, kw_only=True):
    prompt: str | list[Any]
    logprobs: int | None = None
    echo: bool | None = False
    suffix: str | None = None


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools a request offers: name to parameter schema. ``forced`` names the one that must be called."""

    schemas: dict[str, Any]
    required: bool
    forced: str | None
    parallel: bool


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, read. ``prompt_tokens`` has one entry per prompt; ``max_tokens`` is per choice, None for no bound.
    ``logprobs`` is the number of alternatives per token, None for no log probabilities at all; ``image_tokens`` is the
    part of the prompt tokens that stands for images."""

    chat: bool
    model: str
    prompt_tokens: tuple[int, ...]
    n: int
    max_tokens: int | None
    stream: bool
    include_usage: bool
    continuous_usage: bool
    stops: tuple[str, ...]
    include_stop: bool
    ignore_eos: bool
    logprobs: int | None
    response_format: dict[str, Any] | None
    include_reasoning: bool = True
    tools: Tools | None = None
    image_tokens: int = 0

    @property
    def choices(self) -> int:
        """How many choices are generated: prompts times ``n``."""
        return len(self.prompt_tokens) * self.n


_chat = msgspec.json.Decoder(ChatRequest)
_completion = msgspec.json.Decoder(CompletionRequest)
_any = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read_chat(body: bytes, models: dict[str, Scenario]) -> Ask:
    """Reads a chat request. Raises :class:`BadRequestError`."""
    request = _decoded(_chat, body)
    scenario = _model(request.model, models)
    if request.top_logprobs and not request.logprobs:
        raise BadRequestError("when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs")
    texts, image_tokens = _conversation(request, scenario)
    limit = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    return _ask(
        request,
        prompt_tokens=(count_conversation(texts, image_tokens),),
        max_tokens=limit,
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        include_reasoning=request.include_reasoning,
        tools=_tools(request),
        image_tokens=image_tokens,
    )


def read_completion(body: bytes, models: dict[str, Scenario]) -> Ask:
    """Reads a completion request. Raises :class:`BadRequestError`."""
    request = _decoded(_completion, body)
    _model(request.model, models)
    if request.suffix:
        raise BadRequestError("suffix is not currently supported", "suffix")
    if request.echo:
        raise BadRequestError("The scripted engine does not echo prompts.", "echo")
    return _ask(
        request,
        prompt_tokens=_count_prompts(request.prompt),
        max_tokens=COMPLETION_MAX_TOKENS_DEFAULT if request.max_tokens is None else request.max_tokens,
        logprobs=request.logprobs,
    )


def read_tokenize(body: bytes, models: dict[str, Scenario]) -> tuple[str, int]:
    """The model of a `/tokenize` request and the tokens of its prompt: one text, or the messages of a chat. Raises
    :class:`BadRequestError`."""
    if b'"messages"' in body and "messages" in _decoded(_any, body):
        chat = read_chat(body, models)
        return chat.model, sum(chat.prompt_tokens)
    completion = read_completion(body, models)
    return completion.model, sum(completion.prompt_tokens)


def _decoded(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise BadRequestError(str(error)) from error
    except msgspec.DecodeError as error:
        raise BadRequestError(f"The request body is not JSON: {error}") from error
    except (RecursionError, UnicodeDecodeError) as error:
        raise BadRequestError("The request body nests too deeply or is not UTF-8.") from error


def _model(name: str, models: dict[str, Scenario]) -> Scenario:
    scenario = models.get(name)
    if scenario is None:
        raise BadRequestError(f"The model `{name}` does not exist.", "model", 404, "NotFoundError")
    return scenario


def _ask(
    request: Common,
    *,
    prompt_tokens: tuple[int, ...],
    max_tokens: int | None,
    logprobs: int | None,
    include_reasoning: bool = True,
    tools: Tools | None = None,
    image_tokens: int = 0,
) -> Ask:
    stops = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    _check_bounds(request, max_tokens, logprobs, stops)
    options = request.stream_options or StreamOptions()
    return Ask(
        chat=isinstance(request, ChatRequest),
        model=request.model,
        prompt_tokens=prompt_tokens,
        n=1 if request.n is None else request.n,
        max_tokens=max_tokens,
        stream=bool(request.stream),
        include_usage=bool(options.include_usage),
        continuous_usage=bool(options.include_usage and options.continuous_usage_stats),
        stops=stops,
        include_stop=request.include_stop_str_in_output,
        ignore_eos=request.ignore_eos,
        logprobs=logprobs,
        response_format=request.response_format,
        include_reasoning=include_reasoning,
        tools=tools,
        image_tokens=image_tokens,
    )


def _check_bounds(request: Common, max_tokens: int | None, logprobs: int | None, stops: tuple[str, ...]) -> None:
    if request.n is not None and not 1 <= request.n <= N_MAX:
        raise BadRequestError(f"n must be from 1 to {N_MAX}, got {request.n}.", "n")
    if max_tokens is not None and max_tokens < 1:
        raise BadRequestError(f"max_tokens must be at least 1, got {max_tokens}.", "max_tokens")
    if logprobs is not None and not 0 <= logprobs <= TOP_LOGPROBS_MAX:
        raise BadRequestError(f"logprobs must be from 0 to {TOP_LOGPROBS_MAX}, got {logprobs}.", "logprobs")
    if not all(stops):
        raise BadRequestError("stop cannot contain an empty string.", "stop")
    if request.stream_options is not None and not request.stream:
        raise BadRequestError("Stream options can only be defined when `stream=True`.", "stream_options")


def _count_prompts(prompt: str | list[Any]) -> tuple[int, ...]:
    """Tokens of each prompt: a text, a list of texts, a list of token ids, or a list of such lists."""
    if isinstance(prompt, str) or (prompt and all(type(item) is int for item in prompt)):
        prompts: list[Any] = [prompt]
    else:
        prompts = list(prompt)
    if not prompts or not all(prompts) or len(prompts) > PROMPTS_MAX:
        raise BadRequestError(f"prompt must be 1 to {PROMPTS_MAX} non-empty texts or token lists.", "prompt")
    return tuple(_count_prompt(item) for item in prompts)


def _count_prompt(prompt: Any) -> int:
    if isinstance(prompt, str):
        return count_text(prompt)
    if isinstance(prompt, list) and all(type(item) is int for item in prompt):
        return len(prompt)
    raise BadRequestError("prompt must be a text, token ids, or a list of either.", "prompt")


def _conversation(request: ChatRequest, scenario: Scenario) -> tuple[list[list[str]], int]:
    """The texts of each message (tool definitions with the first), and the tokens of all images."""
    if not request.messages:
        raise BadRequestError("messages must not be empty.", "messages")
    texts, images = [], 0
    for message in request.messages:
        parts = message.content if isinstance(message.content, list) else [message.content or ""]
        found = [_text_or_image(part, scenario) for part in parts]
        images += found.count(None)
        called = [str(call.get("function", {}).get("arguments", "")) for call in message.tool_calls or []]
        texts.append([text for text in found if text is not None] + called)
    if request.tools:
        texts[0].append(msgspec.json.encode(request.tools).decode())
    return texts, images * (scenario.image_tokens or 0)


def _text_or_image(part: Any, scenario: Scenario) -> str | None:
    """The text of a content part, or None for an image."""
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        text: str = part["text"]
        return text
    if not isinstance(part, dict) or part.get("type") != "image_url":
        raise BadRequestError("A content part must be a text or an image_url.", "messages")
    if scenario.image_tokens is None:
        raise BadRequestError("This model is not a multimodal model.", "messages")
    source = part.get("image_url")
    url = source.get("url") if isinstance(source, dict) else source
    if not isinstance(url, str) or not url.startswith(DATA_URL):
        raise BadRequestError("The scripted engine fetches nothing: send images as data URLs.", "messages")
    return None


def _tools(request: ChatRequest) -> Tools | None:
    """The tools that may be called, or None when the request offers none or forbids them."""
    if request.tools is None or request.tool_choice == "none":
        return None
    if not request.tools:
        raise BadRequestError("`tools` must not be an empty array.", "tools")
    schemas: dict[str, Any] = {}
    for tool in request.tools:
        function = tool.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRequestError("Each tool needs a function with a name.", "tools")
        schemas[function["name"]] = function.get("parameters") or {"type": "object"}
    choice = request.tool_choice
    forced = None
    if isinstance(choice, dict):
        function = choice.get("function")
        forced = function.get("name") if isinstance(function, dict) else None
        if forced not in schemas:
            raise BadRequestError(
                "The tool specified in `tool_choice` does not match any of the specified `tools`", "tool_choice"
            )
    elif choice not in (None, "auto", "required"):
        raise BadRequestError('Only named tools, "none", "auto" or "required" are supported.', "tool_choice")
    return Tools(schemas, choice == "required", forced, request.parallel_tool_calls is not False)
