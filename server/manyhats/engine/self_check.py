"""Self-check at start-up: compares the packed pass with the unmodified model before any request is answered.

Where a version of transformers, a kernel or a setting of a checkpoint is not supported by the packed pass, sequences
that share a batch may get wrong outputs while each of them alone is right. So sequences of different lengths run
through the packed pass together, and through transformers' own model one by one. For a decoder the same sequences are
also computed in chunks and token by token with the key-value cache, as in generation.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from manyhats import supported
from manyhats.backbone import Backbone, SequenceChunk, pack_chunks
from manyhats.backbone.precision import rounds_products
from manyhats.engine.forward import forward
from manyhats.engine.forward_input import ForwardInput
from manyhats.engine.kv_cache import cache_tensors
from manyhats.errors import ConfigurationError, ManyhatsError, WrongAnswers
from manyhats.methods.bound_adapter import BARE

logger = logging.getLogger(__name__)

# The relative difference (of norms) that is always allowed. Measured: 1e-5 in float32, 0.03 in bfloat16; about 1
# where a sequence attends to another's tokens.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
_TF32 = torch.float16  # the type with as many bits as TF32
_NOISE_FACTOR = 3  # the difference may also be so many times the rounding noise of the unmodified model

_LENGTHS = (24, 3, 48, 1, 11)
_MAX_WINDOW = 256  # tokens; up to this window of local attention, a sequence longer than it is added
_ADVICE = "Install the versions that this release was tested with"
_STEPS = 3  # how many of the last tokens of each sequence are computed one at a time


@torch.inference_mode()
def self_check(backbone: Backbone) -> None:
    """Compares the packed pass, and a decoder's cached steps, with the unmodified model.

    Raises WrongAnswers, in one line with what differs and the installed versions, UnsupportedAttention,
    ConfigurationError where the device's memory is too small for a small pass, or ValueError for a backbone that was
    loaded without its original.
    """
    started = time.perf_counter()
    if backbone.original is None:
        raise ValueError(f"the backbone {backbone.name} was made without its original")
    sequences = _sequences(backbone)
    try:
        largest, tolerance = _largest_difference(backbone, sequences)
    except ManyhatsError:
        raise
    except torch.OutOfMemoryError as error:
        raise ConfigurationError(
            f"there is no memory left on {backbone.device} for one pass of {sum(map(len, sequences))} tokens beside "
            f"the backbone {backbone.name}"
        ) from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise WrongAnswers(
            f"the packed pass of {len(sequences)} sequences together fails: {reason} ({_setup(backbone)}). {_ADVICE}"
        ) from error
    logger.info(
        "self-check: %d sequences agree with the unmodified model within %.1g (tolerance %.1g), %.2f s",
        len(sequences),
        largest,
        tolerance,
        time.perf_counter() - started,
    )


def _largest_difference(backbone: Backbone, sequences: Sequence[list[int]]) -> tuple[float, float]:
    """The largest difference over all passes, and the tolerance. Raises WrongAnswers at the first pass above it."""
    expected = [_run_original(backbone, ids) for ids in sequences]
    rounded = rounds_products(backbone.dtype, backbone.device)
    allowed = _TOLERANCE[_TF32 if rounded and backbone.dtype == torch.float32 else backbone.dtype]
    tolerance = max(allowed, _NOISE_FACTOR * _noise(backbone, sequences, expected) if rounded else 0.0)
    rows = [_forward_input(backbone, ids) for ids in sequences]
    largest = _compare(backbone, "the packed pass", sequences, forward(backbone, rows), expected, tolerance)
    if backbone.has_language_model:
        for read, logits in _cached_steps(backbone, sequences):
            expected_logits = [expected[i][stop - 1] for i, stop in read]
            prefixes = [sequences[i][:stop] for i, stop in read]
            largest = max(
                largest, _compare(backbone, "a cached step", prefixes, list(logits), expected_logits, tolerance)
            )
    return largest, tolerance


def _noise(backbone: Backbone, sequences: Sequence[list[int]], expected: Sequence[Tensor]) -> float:
    """The largest relative difference of one token's output that rounding alone causes; 0 where it is not measured.

    It grows with the depth of a model, so it is measured: between transformers' own two attention implementations,
    which compute the same sums in another order.
    """
    assert backbone.original is not None
    if not backbone.family.packed:
        return 0.0
    backbone.original.set_attn_implementation("eager")
    try:
        others = [_run_original(backbone, ids).float() for ids in sequences]
    finally:
        backbone.original.set_attn_implementation("sdpa")
    return max(
        float(((one.float() - other).norm(dim=-1) / other.norm(dim=-1)).max())
        for one, other in zip(expected, others, strict=True)
    )


def _setup(backbone: Backbone) -> str:
    """The model, the device and the installed versions, for error messages."""
    return f"{backbone.config.model_type} on {backbone.device}; {supported.described()}"


def _sequences(backbone: Backbone) -> list[list[int]]:
    """Random tokens, none of them special. One sequence is longer than a small window of local attention."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(backbone.config.vocab_size)
    special = frozenset(backbone.tokenizer.loaded.all_special_ids)
    allowed = torch.tensor([token for token in range(vocabulary) if token not in special])
    window = getattr(backbone.config, "sliding_window", None) or getattr(backbone.config, "local_attention", None)
    lengths = [*_LENGTHS, *([window + 8] if window and window <= _MAX_WINDOW else [])]
    return [
        allowed[torch.randint(len(allowed), (min(length, backbone.max_tokens),), generator=generator)].tolist()
        for length in lengths
    ]


def _forward_input(backbone: Backbone, ids: list[int]) -> ForwardInput:
    """An input with the same output as `_run_original`."""
    every = tuple(range(len(ids))) if backbone.has_language_model else ()
    return ForwardInput(ids, [0] * len(ids), BARE, pooling="none", mask_positions=every)


def _run_original(backbone: Backbone, ids: list[int]) -> Tensor:
    """The output of the unmodified model for one sequence: (tokens, width) logits of a language model, else states."""
    assert backbone.original is not None
    tokens = torch.tensor([ids], device=backbone.device)
    options = {"use_cache": False} if backbone.family.causal else {}
    out = backbone.original(input_ids=tokens, attention_mask=torch.ones_like(tokens), **options)
    output: Tensor = out.logits if backbone.has_language_model else out.last_hidden_state
    return output[0, : len(ids)]


def _cached_steps(backbone: Backbone, sequences: Sequence[list[int]]) -> Iterator[tuple[list[tuple[int, int]], Tensor]]:
    """Computes the sequences together with the cache: in two chunks, then token by token.

    Yields for each pass the sequences in it, as pairs of index and number of tokens computed so far, and their logits
    (sequences, vocabulary).
    """
    cache = cache_tensors(backbone, sum(map(len, sequences)))
    ends = np.cumsum([len(ids) for ids in sequences])
    rows = [np.arange(end - len(ids), end) for ids, end in zip(sequences, ends, strict=True)]
    chunk_ends = []
    for ids in sequences:
        single_steps = range(max(len(ids) - _STEPS, 1), len(ids) + 1)
        chunk_ends.append(sorted({max(single_steps[0] // 3, 1), *single_steps}))
    computed = [0] * len(sequences)
    for step in range(max(map(len, chunk_ends))):
        read = [(i, own[step]) for i, own in enumerate(chunk_ends) if step < len(own)]
        chunks = [
            SequenceChunk(sequences[i][computed[i] : stop], computed[i], 0, 0, rows[i][:stop]) for i, stop in read
        ]
        batch = pack_chunks(backbone, cache, chunks)
        states = backbone.encode(batch)
        last = torch.tensor(batch.starts[1:], device=backbone.device) - 1
        yield read, backbone.vocabulary_logits(states[last])
        for i, stop in read:
            computed[i] = stop


def _compare(
    backbone: Backbone,
    what: str,
    sequences: Sequence[list[int]],
    actual: Sequence[Tensor],
    expected: Sequence[Tensor],
    tolerance: float,
) -> float:
    """The largest relative difference. Raises WrongAnswers where it is above `tolerance`."""
    largest = 0.0
    for ids, one, other in zip(sequences, actual, expected, strict=True):
        difference = float((one.float() - other.float()).norm() / other.float().norm())
        if not difference <= tolerance:  # also where it is NaN
            raise WrongAnswers(
                f"{what} of {len(sequences)} sequences together differs from the unmodified model: by {difference:.2g} "
                f"of its size for one of {len(ids)} tokens, where {tolerance:.2g} is allowed in "
                f"{str(backbone.dtype).removeprefix('torch.')} ({_setup(backbone)}); answers would be "
                f"wrong. {_ADVICE}; --self-check false starts the server all the same"
            )
        largest = max(largest, difference)
    return largest
