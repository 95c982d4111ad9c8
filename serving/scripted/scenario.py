"""The scenario file: which model says what, how fast, and how it fails.

Parsing is strict. An unknown field, a wrong type or a value out of range raises :class:`ScenarioError`, which names the
field by its path and says what belongs there; the wording comes from the description beside each field below, so the
documentation and the refusals cannot drift apart.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta, Struct

from serving.scripted import refusal

DEFAULT_FILE = Path(__file__).with_name("scenarios.yaml")

Positive = Annotated[int, Meta(ge=1)]


class ScenarioError(Exception):
    """A scenario file that cannot be used: ``field`` (dotted path), ``problem`` and ``cure``, each one sentence."""

    def __init__(self, field: str, problem: str, cure: str) -> None:
        super().__init__(f"{field}: {problem}. {cure}")
        self.field, self.problem, self.cure = field, problem, cure


class Deltas(Struct, frozen=True, forbid_unknown_fields=True):
    """A text whose split is written out: one delta per entry, at least one token each."""

    deltas: Annotated[list[str], Meta(min_length=1, description="the deltas in order, e.g. ['he', '', 'llo']")]


class ToolScript(Struct, frozen=True, forbid_unknown_fields=True):
    """One tool call. Without ``name`` the first tool of the request is called; without ``arguments`` the smallest
    JSON that satisfies the tool's own schema is sent."""

    name: Annotated[str | None, Meta(description="the tool's name, or nothing for the first tool of the request")] = (
        None
    )
    arguments: Annotated[str | Deltas | None, Meta(description="JSON text (sent as it is), or {deltas: [...]}")] = None


class Split(Struct, frozen=True, forbid_unknown_fields=True):
    """The rule that splits texts without explicit deltas."""

    chars_per_token: Annotated[Positive, Meta(description="characters of one token, 1 or more")] = 4
    tokens_per_delta: Annotated[Positive, Meta(description="tokens sent in one chunk, 1 or more")] = 1


class FaultBase(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """When a fault applies: always, or only at first. Both limits together mean both must still hold."""

    first_attempts: Annotated[
        Positive | None, Meta(description="only the first so many attempts of each request (ids <request>-<attempt>)")
    ] = None
    first_requests: Annotated[Positive | None, Meta(description="only the first so many requests of this model")] = None


class Refuse(FaultBase, frozen=True, tag="refuse"):
    """Answers with an error status; nothing is generated and nothing recorded."""

    status: Annotated[int, Meta(ge=400, le=599, description="the HTTP status, 400 to 599")] = 503
    retry_after_s: Annotated[
        Annotated[int, Meta(ge=0)] | None, Meta(description="whole seconds for Retry-After, or nothing")
    ] = None


class Hang(FaultBase, frozen=True, tag="hang"):
    """Stops for ever, until the client leaves: before the headers, after them, or after ``after_tokens``."""

    where: Annotated[Literal["headers", "first_byte", "stream"], Meta(description="headers, first_byte or stream")] = (
        "first_byte"
    )
    after_tokens: Annotated[int, Meta(ge=0, description="tokens sent before it hangs (where: stream)")] = 3


class Drop(FaultBase, frozen=True, tag="drop"):
    """Closes the connection: instead of an answer, or after ``after_tokens``; ``reset`` sends RST instead of FIN."""

    where: Annotated[Literal["headers", "stream"], Meta(description="headers or stream")] = "stream"
    after_tokens: Annotated[int, Meta(ge=0, description="tokens sent before the drop (where: stream)")] = 3
    reset: Annotated[bool, Meta(description="true to reset the connection, false to close it")] = False


class BadJson(FaultBase, frozen=True, tag="bad_json"):
    """Cuts the JSON of one chunk in half (of the whole body when not streaming) and goes on."""

    at_chunk: Annotated[Positive, Meta(description="which data chunk of the stream is broken, counted from 1")] = 3


class SlowHeaders(FaultBase, frozen=True, tag="slow_headers"):
    """Sends status line and headers byte by byte, spread over ``seconds``."""

    seconds: Annotated[float, Meta(gt=0, description="seconds from the first header byte to the last")] = 2.0


class LateUsage(FaultBase, frozen=True, tag="late_usage"):
    """Leaves usage out of every chunk but the closing one, which comes ``delay_s`` after the last delta."""

    delay_s: Annotated[float, Meta(ge=0, description="seconds between the last delta and the usage chunk")] = 0.2


class MissingUsage(FaultBase, frozen=True, tag="missing_usage"):
    """Sends no usage at all, whatever was asked for (null when not streaming)."""


class ErrorEvent(FaultBase, frozen=True, tag="error_event"):
    """Sends an error event after ``after_tokens``, as vLLM does when its engine dies (HTTP 500 when not streaming)."""

    after_tokens: Annotated[int, Meta(ge=0, description="tokens sent before the error event")] = 3


Fault = Refuse | Hang | Drop | BadJson | SlowHeaders | LateUsage | MissingUsage | ErrorEvent


class Scenario(Struct, frozen=True, forbid_unknown_fields=True):
    """What one model does. Choice ``i`` (counted over list prompts and ``n``) says text ``i`` modulo their number."""

    text: Annotated[str | Deltas | list[str | Deltas], Meta(description="a text, {deltas: [...]}, or a list of those")]
    reasoning: Annotated[str | Deltas | None, Meta(description="reasoning sent before the text, or nothing")] = None
    tool_calls: Annotated[
        list[ToolScript], Meta(description="calls made when the request offers tools; [] for none")
    ] = []
    split: Annotated[Split, Meta(description="{chars_per_token: 4, tokens_per_delta: 1}")] = Split()
    repeat_to_tokens: Annotated[
        Positive | None, Meta(description="repeat the text until it has so many tokens, or nothing")
    ] = None
    tokens_per_s: Annotated[float, Meta(ge=0, description="tokens per second and choice; 0 for no pacing")] = 0.0
    first_token_s: Annotated[float, Meta(ge=0, description="seconds before the first token")] = 0.0
    max_num_seqs: Annotated[
        Positive, Meta(description="choices generated at the same time; more wait in the order of arrival")
    ] = 1024
    max_model_len: Annotated[Positive, Meta(description="tokens of prompt and answer together")] = 8192
    image_tokens: Annotated[Positive | None, Meta(description="tokens of one image, or nothing: images refused")] = None
    cached_tokens: Annotated[int, Meta(ge=0, description="prompt tokens reported as cached, at most all of them")] = 0
    faults: Annotated[list[Fault], Meta(description="faults in order; the first that applies happens")] = []

    @property
    def texts(self) -> list[str | Deltas]:
        """The texts as a list, one entry or more."""
        return self.text if isinstance(self.text, list) else [self.text]


def load_scenarios(path: Path) -> dict[str, Scenario]:
    """The models of a scenario file, by name. Raises :class:`ScenarioError`."""
    try:
        return parse_scenarios(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScenarioError(str(path), f"cannot be read ({error.strerror})", "Name a readable YAML file.") from error
    except UnicodeDecodeError as error:
        raise ScenarioError(str(path), "is not UTF-8 text", "Save the file as UTF-8.") from error


def parse_scenarios(text: str) -> dict[str, Scenario]:
    """The models of a scenario text (``version: 1`` and a mapping ``models``). Raises :class:`ScenarioError`."""
    document = _document(text)
    for field in document:
        if field not in ("version", "models"):
            raise ScenarioError(str(field), "unknown field", "The file holds version and models, nothing else.")
    if document.get("version") != 1 or isinstance(document.get("version"), bool):
        raise ScenarioError("version", f"expected 1, got {document.get('version')!r}", "Write version: 1.")
    models = document.get("models")
    if not isinstance(models, dict) or not models:
        raise ScenarioError(
            "models", "expected a mapping with at least one model", "Write models: {name: {text: ...}}."
        )
    return {_name(name): _scenario(name, value) for name, value in models.items()}


class _NoDuplicates(yaml.SafeLoader):
    """YAML keeps the last of two equal keys silently; a scenario with two is a mistake, so it is refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                place = f"line {key_node.start_mark.line + 1}"
                raise ScenarioError(str(key), f"appears twice ({place})", "Keep one of the two.")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _document(text: str) -> dict[Any, Any]:
    try:
        document = _NoDuplicates(text).get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}" if mark else "the file"
        raise ScenarioError(
            place, "not YAML", f"Check the syntax there: {getattr(error, 'problem', error)}."
        ) from error
    if not isinstance(document, dict):
        raise ScenarioError("the file", "expected a mapping", "Write version: 1 and models: {...}.")
    return document


def _name(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise ScenarioError("models", f"the model name {name!r} is not text", "Put the name in quotes.")
    return name


def _scenario(name: str, value: object) -> Scenario:
    path = f"models.{name}"
    try:
        scenario = msgspec.convert(value, Scenario)
    except msgspec.ValidationError as error:
        raise ScenarioError(*refusal.explain(path, str(error), Scenario)) from error
    _check_texts(path, scenario)
    return scenario


def _check_texts(path: str, scenario: Scenario) -> None:
    """A generation always has at least one token, so a text has at least one character or one explicit delta."""
    parts = {f"{path}.text[{i}]": text for i, text in enumerate(scenario.texts)} | {
        f"{path}.reasoning": scenario.reasoning
    }
    parts |= {f"{path}.tool_calls[{i}].arguments": tool.arguments for i, tool in enumerate(scenario.tool_calls)}
    for field, part in parts.items():
        if part == "":
            raise ScenarioError(field, "empty text", "Write at least one character.")
    if not scenario.texts:
        raise ScenarioError(f"{path}.text", "empty list", "Give at least one text.")
