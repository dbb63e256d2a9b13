"""From a request and its answer to what is counted and logged of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from manyhats.core.answered import Answered
from manyhats.errors import ManyhatsError
from manyhats.serving.inference import InferenceRequest, InferenceResponse, RequestState


def refused(request: InferenceRequest, error: ManyhatsError, begin: float) -> Answered:
    """Of a request whose task was not found, or whose parameters were wrong. `begin`: when it came."""
    return Answered(request.task, begin, time.monotonic() - begin, type(error).__name__, found=False)


def answered(state: RequestState, answer: InferenceResponse | ManyhatsError, begin: float) -> Answered:
    """Of a request whose task was found. `begin`: when it came."""
    version, engine_request = state.version, state.engine_request
    one = Answered(
        version.task,
        begin,
        time.monotonic() - begin,
        version=version.number,
        sha256=version.sha256,
        method=version.info.method,
        kind=state.kind,
        load_ms=state.load_ms,
    )
    if engine_request is not None:
        one.inputs = len(engine_request.sequences)
        one.submitted, one.started = engine_request.arrival_time, engine_request.started
        one.batch = engine_request.batch
        one.compute_ms = engine_request.compute * 1000
    if isinstance(answer, ManyhatsError):
        one.error = type(answer).__name__
        return one
    one.input_tokens, one.output_tokens, one.queue_ms = answer.input_tokens, answer.output_tokens, answer.queue_ms
    if state.call.with_texts:
        one.texts, one.outputs = _texts(state.request), answer.outputs
    if answer.sequences:
        one.token_times = [sequence.token_times for sequence in answer.sequences if sequence.token_times]
    return one


def _texts(request: InferenceRequest) -> Sequence[Any]:
    """What was asked, as it came."""
    if request.chat is not None:
        return [dict(message) for message in request.chat]
    if request.prompts is not None:
        return [list(prompt) for prompt in request.prompts]
    return [text.text if text.pair is None else [text.text, text.pair] for text in request.texts]
