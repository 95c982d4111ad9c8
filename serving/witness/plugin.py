# mypy: disable-error-code="import-not-found,misc"
"""The witness inside vLLM: a stat logger that vLLM finds by its entry point and makes in the process of its front end.

vLLM's interface for stat loggers shows finished requests only, and only after their answers may have been sent. So the
logger is the door, not the place of counting: when it is made, it puts itself around four methods of vLLM's
`OutputProcessor`, through which every request comes and goes (read in vLLM 0.29, `vllm/v1/engine/output_processor.py`):

- `add_request`: a request begins;
- `_update_stats_from_finished`: it ended by itself. Called in the same step of the event loop that hands the last
  output to the request's task, so its record is with the kernel before the end of the answer can be sent;
- `abort_requests`: it was cut short; the state still holds what it had generated. What the engine's core generates
  after that, until it hears of the abort, reaches nobody and is counted by nobody (a step or two);
- `propagate_error`: the core has died, and with it everything under way.

Without SEKISHO_WITNESS_DIR nothing of this happens. With it, a vLLM that lacks one of these methods does not start.
"""

from __future__ import annotations

import atexit
import inspect
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from vllm.v1.engine.output_processor import OutputProcessor
from vllm.v1.metrics.loggers import StatLoggerBase

from serving.witness.attempts import Attempts, Begun, Ended, attempt_of
from serving.witness.segments import Segments
from serving.witness.types import line_of

FOLDER_VARIABLE = "SEKISHO_WITNESS_DIR"

_LOG = logging.getLogger(__name__)
_EXPECTED = {
    "add_request": ["self", "request", "prompt", "parent_req", "request_index", "queue"],
    "_update_stats_from_finished": ["self", "req_state", "finish_reason", "iteration_stats"],
    "abort_requests": ["self", "request_ids", "internal"],
    "propagate_error": ["self", "e"],
}
_installed: list[Observer] = []


class WitnessLogger(StatLoggerBase):
    """What vLLM makes of the entry point. Being there also makes vLLM count (its `log_stats`)."""

    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
        folder = os.environ.get(FOLDER_VARIABLE)
        if folder and not _installed:
            segments = Segments(Path(folder))
            observer = Observer(_served_name(vllm_config), segments.append)
            install(observer)
            _installed.append(observer)
            atexit.register(_close, observer, segments)
            _LOG.info("the witness writes to %s", folder)

    def record(self, *arguments: Any, **options: Any) -> None:
        """Everything was written when it happened."""

    def log_engine_initialized(self) -> None:
        """Nothing to say."""


class Observer:
    """Follows vLLM's requests by their states and writes a line for each attempt that ends."""

    def __init__(self, model: str, append: Callable[[bytes], None], clock: Callable[[], float] = time.time) -> None:
        self._model, self._append, self._clock = model, append, clock
        self._attempts = Attempts()
        self._states: dict[str, Any] = {}

    def began(self, request: Any, state: Any) -> None:
        """`request` is vLLM's `EngineCoreRequest`, `state` the `RequestState` made of it."""
        if state.request_id in self._states:
            return  # more input for a request that is under way
        attempt_id, prompt = attempt_of(state.external_req_id)
        media = {"image": 0, "audio": 0}
        for feature in request.mm_features or ():
            if feature.modality in media:
                media[feature.modality] += feature.mm_position.length
        begun = Begun(
            attempt_id=attempt_id,
            model=state.lora_name or self._model,
            prompt=prompt,
            choice=state.request_index,
            started_at=state.stats.arrival_time,
            image_tokens=media["image"],
            audio_tokens=media["audio"],
        )
        self._states[state.request_id] = state
        self._attempts.begin(state.request_id, begun)

    def ended(self, state: Any, reason: str) -> None:
        """A request is over, for `reason` in vLLM's words."""
        if self._states.pop(state.request_id, None) is None:
            return
        prefilled = not state.is_prefilling
        ended = Ended(
            prompt_tokens=state.prompt_len,
            cached_tokens=state.num_cached_tokens,
            completion_tokens=state.stats.num_generation_tokens,
            finish_reason=reason,
            prefilled=prefilled,
        )
        witness = self._attempts.end(state.request_id, ended, self._clock())
        if witness is not None:
            self._append(line_of(witness))

    def aborted(self, request_ids: Iterable[str]) -> None:
        """Requests were cut short."""
        for request_id in request_ids:
            state = self._states.get(request_id)
            if state is not None:
                self.ended(state, "abort")

    def abort_all(self) -> None:
        """Nothing goes on from here."""
        self.aborted(list(self._states))


def install(observer: Observer) -> None:
    """Puts `observer` around the methods of `OutputProcessor`. Raises `RuntimeError` for a vLLM that has others."""
    for name, expected in _EXPECTED.items():
        method = getattr(OutputProcessor, name, None)
        found = list(inspect.signature(method).parameters) if method is not None else None
        if found != expected:
            raise RuntimeError(f"vLLM's OutputProcessor.{name} takes {found}, not {expected}: the witness must follow")
    add, finish = OutputProcessor.add_request, OutputProcessor._update_stats_from_finished
    abort, fail = OutputProcessor.abort_requests, OutputProcessor.propagate_error

    def add_request(self: Any, request: Any, *arguments: Any, **options: Any) -> None:
        add(self, request, *arguments, **options)
        state = self.request_states.get(request.request_id)
        if state is not None:
            _guarded(observer.began, request, state)

    def update_stats_from_finished(self: Any, req_state: Any, finish_reason: Any, iteration_stats: Any) -> None:
        _guarded(observer.ended, req_state, str(finish_reason))
        finish(self, req_state, finish_reason, iteration_stats)

    def abort_requests(self: Any, request_ids: Any, internal: bool) -> Any:
        # Asked for a parent, vLLM comes back here for its children, which are then recorded already.
        aborted = abort(self, request_ids, internal)
        _guarded(observer.aborted, aborted)
        return aborted

    def propagate_error(self: Any, e: Exception) -> None:
        fail(self, e)
        _guarded(observer.aborted, list(self.request_states))

    OutputProcessor.add_request = add_request
    OutputProcessor._update_stats_from_finished = update_stats_from_finished
    OutputProcessor.abort_requests = abort_requests
    OutputProcessor.propagate_error = propagate_error


def _guarded(note: Callable[..., None], *arguments: Any) -> None:
    """A mistake in counting must not end the counted request; the record that is then missing shows in the books."""
    try:
        note(*arguments)
    except Exception:
        _LOG.critical("the witness could not note what happened", exc_info=True)


def _served_name(vllm_config: Any) -> str:
    name = vllm_config.model_config.served_model_name
    return str(name[0] if isinstance(name, list | tuple) else name)


def _close(observer: Observer, segments: Segments) -> None:
    _guarded(observer.abort_all)
    segments.close()
