"""The sha256 that names a checkpoint, by which an adapter says which backbone it was trained for."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor
from transformers import PreTrainedModel

from manyhats.backbone.digest_cache import DigestCache, FileStamps
from manyhats.backbone.sites import LM_HEAD
from manyhats.backbone.vocabulary import VocabularyHead

logger = logging.getLogger(__name__)

Weights = Sequence[tuple[str, Tensor]]

_CHUNK = 4 << 20  # values that are converted at a time
_AHEAD = 2  # chunks that are converted while another is hashed
_WORTH_KEEPING = 64 << 20  # values; fewer are hashed in a fraction of a second


def checkpoint_digest(weights: Weights, stamps: FileStamps | None, cache: DigestCache | None = None) -> str:
    """`digest`, from the user's cache where the files that `weights` were loaded from are the same as before.

    `stamps`: those files as they were before they were loaded; None where they are not known. `cache`: by default the
    user's own.
    """
    if stamps is None or sum(tensor.numel() for _, tensor in weights) < _WORTH_KEEPING:
        return digest(weights)
    cache = cache or DigestCache.of_user()
    key = stamps.key(weights)
    found = cache.get(key)
    if found is not None:
        logger.debug("the checkpoint's digest is in %s", cache.folder)
        return found
    start = time.perf_counter()
    made = digest(weights)
    logger.info("the checkpoint's digest was computed in %.1f s", time.perf_counter() - start)
    if stamps.settled and stamps.unchanged():
        cache.put(key, made)
    return made


def named_weights(model: PreTrainedModel, missing: frozenset[str], head: VocabularyHead | None = None) -> Weights:
    """Every weight that the checkpoint holds, by name.

    A decoder's untied head is included; a masked language model's is not, so that adapters of the encoder fit every
    checkpoint of it.
    """
    weights = dict(model.state_dict())
    if head is not None and not head.tied and not head.masked:
        weights |= {f"{LM_HEAD}.{name}": tensor for name, tensor in head.module.state_dict().items()}
    return [(name, tensor.detach()) for name, tensor in sorted(weights.items()) if name not in missing]


def digest(weights: Weights) -> str:
    """sha256 over the sorted (name, shape, float32 values) of all weights, which are in the order of their names.

    Computed before any cast, so that it identifies the checkpoint, whatever the precision. One thread converts a few
    million values at a time while this one hashes others, so no float32 copy of a whole weight is made.
    """
    total = hashlib.sha256()
    with ThreadPoolExecutor(1, "digest") as pool:
        converted: deque[Future[Tensor]] = deque()
        for heading, chunk in _chunks(weights):
            while len(converted) > _AHEAD:
                total.update(converted.popleft().result().numpy().data)
            if heading:
                while converted:
                    total.update(converted.popleft().result().numpy().data)
                total.update(heading)
            converted.append(pool.submit(chunk.float))
        while converted:
            total.update(converted.popleft().result().numpy().data)
    return total.hexdigest()


def _chunks(weights: Weights) -> Iterator[tuple[bytes, Tensor]]:
    """All values in order, in pieces; with the first one of a weight its name and shape."""
    for name, tensor in weights:
        heading = f"{name}{tuple(tensor.shape)}".encode()
        for chunk in torch.split(tensor.contiguous().view(-1), _CHUNK):
            yield heading, chunk
            heading = b""
