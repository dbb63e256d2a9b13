"""The packed pass proves itself: before anything is answered it is compared with the unmodified model.

A version of transformers, a kernel or a setting of a checkpoint that the packed pass does not follow shows where
sequences share a batch, and each of them alone may still be right. So sequences of mixed lengths go through the packed
pass together and through transformers' own model one by one. For a decoder the same sequences are also read in pieces
and token by token, over the cache of keys and values, as in generation.
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
from manyhats.backbone.cache import KeyValueCache
from manyhats.engine.forward import forward
from manyhats.engine.row import Row
from manyhats.errors import ConfigurationError, ManyhatsError, WrongAnswers
from manyhats.methods.bound_adapter import BARE

logger = logging.getLogger(__name__)

# The relative difference (of norms) that two right answers may always have. Seen: 1e-5 in float32, 0.03 in bfloat16; a
# sequence that sees another's tokens differs by its whole size.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
_TIMES_NOISE = 3  # how many times the rounding that the unmodified model shows by itself, where that is more

_LENGTHS = (24, 3, 48, 1, 11)
_WIDEST_WINDOW = 256  # tokens; a sequence longer than a local layer's window is added where that is cheap
_ADVICE = "Install the versions that this release was tested with"
_STEPS = 3  # last tokens of each sequence, read one at a time


@torch.inference_mode()
def self_check(backbone: Backbone) -> None:
    """Compares the packed pass, and a decoder's cached steps, with the unmodified model.

    Raises WrongAnswers, in one line with what differs and the versions at work, UnsupportedAttention,
    ConfigurationError where the device's memory does not hold a small pass, or ValueError for a backbone that was made
    without its original.
    """
    begun = time.perf_counter()
    if backbone.original is None:
        raise ValueError(f"the backbone {backbone.name} was made without its original")
    sequences = _sequences(backbone)
    try:
        worst, most = _largest_difference(backbone, sequences)
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
            f"the packed pass of {len(sequences)} sequences together fails: {reason} ({_at_work(backbone)}). {_ADVICE}"
        ) from error
    logger.info(
        "self-check: %d sequences agree with the unmodified model within %.1g (at most %.1g), %.2f s",
        len(sequences),
        worst,
        most,
        time.perf_counter() - begun,
    )


def _largest_difference(backbone: Backbone, sequences: Sequence[list[int]]) -> tuple[float, float]:
    """Of all passes, and the tolerance. Raises WrongAnswers at the first that is over it."""
    expected = [_original(backbone, ids) for ids in sequences]
    most = max(_TOLERANCE[backbone.dtype], _TIMES_NOISE * _noise(backbone, sequences, expected))
    rows = [_row(backbone, ids) for ids in sequences]
    worst = _compare(backbone, "the packed pass", sequences, forward(backbone, rows), expected, most)
    if backbone.has_language_model:
        for read, logits in _cached_steps(backbone, sequences):
            wanted = [expected[i][stop - 1] for i, stop in read]
            prefixes = [sequences[i][:stop] for i, stop in read]
            worst = max(worst, _compare(backbone, "a cached step", prefixes, list(logits), wanted, most))
    return worst, most


def _noise(backbone: Backbone, sequences: Sequence[list[int]], expected: Sequence[Tensor]) -> float:
    """How far rounding alone moves one token's answer in a half type; 0 in float32.

    It grows with the depth of a model, so it is measured: the unmodified model with transformers' two own attentions,
    which give the same sums in another order.
    """
    assert backbone.original is not None
    if backbone.dtype == torch.float32 or not backbone.family.packed:
        return 0.0
    backbone.original.set_attn_implementation("eager")
    try:
        others = [_original(backbone, ids).float() for ids in sequences]
    finally:
        backbone.original.set_attn_implementation("sdpa")
    return max(
        float(((one.float() - other).norm(dim=-1) / other.norm(dim=-1)).max())
        for one, other in zip(expected, others, strict=True)
    )


def _at_work(backbone: Backbone) -> str:
    """What the answers come from."""
    return f"{backbone.config.model_type} on {backbone.device}; {supported.described()}"


def _sequences(backbone: Backbone) -> list[list[int]]:
    """Made-up tokens, none of them special. One sequence is longer than a local layer sees, if that is not far."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(backbone.config.vocab_size)
    special = frozenset(backbone.tokenizer.loaded.all_special_ids)
    allowed = torch.tensor([token for token in range(vocabulary) if token not in special])
    window = getattr(backbone.config, "sliding_window", None) or getattr(backbone.config, "local_attention", None)
    lengths = [*_LENGTHS, *([window + 8] if window and window <= _WIDEST_WINDOW else [])]
    return [
        allowed[torch.randint(len(allowed), (min(length, backbone.max_tokens),), generator=generator)].tolist()
        for length in lengths
    ]


def _row(backbone: Backbone, ids: list[int]) -> Row:
    """Asks for what `_original` gives."""
    every = tuple(range(len(ids))) if backbone.has_language_model else ()
    return Row(ids, [0] * len(ids), BARE, pooling="none", masks=every)


def _original(backbone: Backbone, ids: list[int]) -> Tensor:
    """One sequence by itself: its logits where the backbone continues texts, else its last states. (tokens, width)."""
    assert backbone.original is not None
    tokens = torch.tensor([ids], device=backbone.device)
    options = {"use_cache": False} if backbone.family.causal else {}
    out = backbone.original(input_ids=tokens, attention_mask=torch.ones_like(tokens), **options)
    given: Tensor = out.logits if backbone.has_language_model else out.last_hidden_state
    return given[0, : len(ids)]


def _cached_steps(backbone: Backbone, sequences: Sequence[list[int]]) -> Iterator[tuple[list[tuple[int, int]], Tensor]]:
    """Reads the sequences together, over the cache: in two pieces, then token by token.

    Gives for each pass (sequence, how many of its tokens have been read) of all that took part, and their logits
    (sequences, vocabulary).
    """
    cache = KeyValueCache(sum(map(len, sequences)), backbone.layers, backbone.kv_shape, backbone.device, backbone.dtype)
    ends = np.cumsum([len(ids) for ids in sequences])
    rows = [np.arange(end - len(ids), end) for ids, end in zip(sequences, ends, strict=True)]
    stops = []
    for ids in sequences:
        steps = range(max(len(ids) - _STEPS, 1), len(ids) + 1)
        stops.append(sorted({max(steps[0] // 3, 1), *steps}))
    done = [0] * len(sequences)
    for turn in range(max(map(len, stops))):
        read = [(i, own[turn]) for i, own in enumerate(stops) if turn < len(own)]
        chunks = [SequenceChunk(sequences[i][done[i] : stop], done[i], 0, 0, rows[i][:stop]) for i, stop in read]
        batch = pack_chunks(backbone, cache, chunks)
        states = backbone.encode(batch)
        last = torch.tensor(batch.starts[1:], device=backbone.device) - 1
        yield read, backbone.vocabulary_logits(states[last])
        for i, stop in read:
            done[i] = stop


def _compare(
    backbone: Backbone,
    what: str,
    sequences: Sequence[list[int]],
    given: Sequence[Tensor],
    expected: Sequence[Tensor],
    most: float,
) -> float:
    """The largest relative difference. Raises WrongAnswers where it is over `most`."""
    worst = 0.0
    for ids, one, other in zip(sequences, given, expected, strict=True):
        difference = float((one.float() - other.float()).norm() / other.float().norm())
        if not difference <= most:  # also where it is not a number
            raise WrongAnswers(
                f"{what} of {len(sequences)} sequences together differs from the unmodified model: by {difference:.2g} "
                f"of its size for one of {len(ids)} tokens, where {most:.2g} is allowed in "
                f"{str(backbone.dtype).removeprefix('torch.')} ({_at_work(backbone)}); answers would be "
                f"wrong. {_ADVICE}; --self-check false starts the server all the same"
            )
        worst = max(worst, difference)
    return worst
