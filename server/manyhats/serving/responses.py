"""From the engine's finished requests to responses."""

from __future__ import annotations

from random import Random

from manyhats.backbone import Tokenizer
from manyhats.core.kinds.base import Answer, Rendered
from manyhats.core.sequence import Output, Request
from manyhats.errors import EngineFailure
from manyhats.serving.generation import Generation, rendering_cost_of_texts
from manyhats.serving.inference import InferenceResponse, RequestState

# Random numbers without the operating system, whose call would give up the interpreter's lock.
_ids = Random()


def response_cost(state: RequestState) -> int:
    """Roughly how many values are processed to make the response, and to write it as JSON."""
    request = _finished(state)
    if state.task_kind.generates:
        return rendering_cost_of_texts(request)
    outputs = (sequence.pooled for sequence in request.sequences)
    cost = state.task_kind.rendering_cost
    return sum(cost(output, state.parameters) for output in outputs if output is not None)


def response_of(
    state: RequestState, tokenizer: Tokenizer, generation: Generation | None, size: int
) -> InferenceResponse:
    """The response to a request that the engine has finished, whose values are finite. `size`: its `response_cost`.

    Raises EngineFailure for outputs that are missing.
    """
    request = _finished(state)
    prepared = state.prepared
    assert prepared is not None
    assert request.batch is not None
    generates = state.task_kind.generates
    return InferenceResponse(
        id=f"pred-{_ids.getrandbits(128):032x}",
        version=state.version,
        kind=state.kind,
        outputs=_answers(state, request, tokenizer, generation),
        input_tokens=prepared.tokens,
        output_tokens=request.output_tokens if generates else 0,
        queue_ms=(request.started - request.arrival_time) * 1000,
        load_ms=state.load_ms,
        compute_ms=request.compute * 1000,
        batch={
            "id": request.batch.id,
            "sequences": request.batch.sequences,
            "tasks": len(request.batch.tasks),
            "methods": list(request.batch.methods),
        },
        warnings=prepared.warnings,
        size=size,
        sequences=request.sequences if generates else (),
    )


def _finished(state: RequestState) -> Request:
    assert state.engine_request is not None
    return state.engine_request


def _outputs(state: RequestState, request: Request) -> list[Output]:
    """The outputs of sequences that one pass answers."""
    outputs = [sequence.pooled for sequence in request.sequences if sequence.pooled is not None]
    if len(outputs) < len(request.sequences):
        raise EngineFailure(f"the pass of {state.version.ref} gave no values for some of its inputs")
    return outputs


def _answers(
    state: RequestState, request: Request, tokenizer: Tokenizer, generation: Generation | None
) -> list[Answer]:
    parameters, prepared = state.parameters, state.prepared
    assert prepared is not None
    if (generate_parameters := state.generate_parameters) is not None:
        assert generation is not None
        return generation.answers(request, generate_parameters)
    outputs = _outputs(state, request)
    render, labels = state.task_kind.render, state.settings.labels
    return [
        render(output, parameters, Rendered(text, encoded, labels, tokenizer))
        for output, text, encoded in zip(outputs, prepared.texts, prepared.encoded, strict=True)
    ]
