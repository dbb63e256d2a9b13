"""What a sampled token does to its sequence: it is appended, or ends it."""

from __future__ import annotations

from manyhats.core.batch import SequenceOutput
from manyhats.core.sampling_params import SampledToken, SamplingParams
from manyhats.core.sequence import FinishReason, Sequence
from manyhats.errors import InvalidRequest


def accept_token(sequence: Sequence, params: SamplingParams, sampled: SampledToken) -> SequenceOutput:
    """Appends the token to the sequence, or ends it. Raises InvalidRequest where the constraints allow no token."""
    if sampled.token < 0:
        raise _no_token_error(sequence)
    complete = sequence.constraint.accept(sampled.token) if sequence.constraint is not None else False
    kept = sampled.token in params.kept_eos_token_ids
    if sampled.token in params.eos_token_ids and not kept:
        sequence.ended_by = sampled
        return SequenceOutput(sequence, finished="stop")
    sequence.output.append(sampled)
    if complete and len(sequence.output) < params.min_tokens:
        raise _no_token_error(sequence)
    finished: FinishReason | None = None
    if complete or kept:
        finished = "stop"
    elif len(sequence.output) >= params.max_new_tokens:
        finished = "length"
    return SequenceOutput(sequence, sampled, finished)


def _no_token_error(sequence: Sequence) -> InvalidRequest:
    return InvalidRequest(
        f"after {len(sequence.output)} tokens of the answer its constraints leave no token that may follow: the "
        "structured output, allowed_token_ids, bad_words and min_tokens together",
        param="parameters",
    )
