"""Prepacks frozen weights: makes copies in the layout of the CPU's matrix kernels.

oneDNN otherwise reorders a weight at every call, which costs most for few rows and a large weight: in decode steps.
The operators are private to torch; where they are missing, slower or fail, the plain product is used. Which is faster
depends on the machine, the shape and the number of rows, so it is measured once for each shape.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from manyhats.backbone.device_memory import free_host_memory
from manyhats.backbone.joined_linear import JoinedLinear
from manyhats.backbone.prepacked_weight import PrepackedWeight
from manyhats.backbone.sites import LinearSite
from manyhats.messages import first_line

logger = logging.getLogger(__name__)

_ROWS = (1, 4, 16, 64)  # numbers of rows that are tried
_TRIES = 7  # at least
_TIME = 0.02  # seconds in which a quick product is tried more often
_GAIN = 0.97  # maximum share of the plain product's time
_SHARE = 0.25  # maximum share of the free memory


@torch.inference_mode()
def prepack(sites: Iterable[LinearSite], joined: Iterable[JoinedLinear] = ()) -> int:
    """Prepacks the weights of sites where that is faster; those of `joined` sites as one. Returns the copies' bytes.

    Does nothing on devices other than the CPU, or where memory is short.
    """
    chosen = [site for site in sites if not site.quantized and site.weight.device.type == "cpu"]
    needed = sum(site.weight.nbytes for site in chosen)
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not chosen or not available or needed > _SHARE * free_host_memory():
        return 0
    min_rows: dict[Any, int | None] = {}
    nbytes = 0
    packed: set[LinearSite] = set()  # as a part of a joined weight
    whole = [layer for layer in joined if not any(site.quantized for site in layer.sites)]
    layers: list[LinearSite | JoinedLinear] = [*whole, *chosen]
    for layer in layers:
        if layer in packed:
            continue
        weight = layer.weight
        key = (tuple(weight.shape), weight.dtype, layer.bias is None)
        if key not in min_rows:
            min_rows[key] = _min_rows(weight, layer.bias)
        rows = min_rows[key]
        if rows is not None:
            layer.prepacked = PrepackedWeight(weight, rows)
            nbytes += weight.nbytes
            if isinstance(layer, JoinedLinear):
                packed.update(layer.sites)
    if nbytes:
        logger.info("weights packed for the CPU: %d MB more", nbytes >> 20)
    return nbytes


def _min_rows(weight: Tensor, bias: Tensor | None) -> int | None:
    """The smallest tried number of rows from which on a prepacked weight is always faster; None where it never is."""
    min_rows: int | None = None
    try:
        packed = PrepackedWeight(weight, 1)
        for rows in reversed(_ROWS):
            if not _faster(packed, weight, bias, torch.randn(rows, weight.shape[1]).to(weight.dtype)):
                break
            min_rows = rows
    except (RuntimeError, AttributeError) as error:
        logger.info("weights stay as they are: %s", first_line(error))
    return min_rows


def _faster(packed: PrepackedWeight, weight: Tensor, bias: Tensor | None, x: Tensor) -> bool:
    """Whether a prepacked weight gives the same result faster; both run alternately, so that noise affects both.

    The fastest runs are compared: others that compute at the start only make runs slower, and a median of few would
    leave a server without packed weights for good.
    """

    def plain() -> Tensor:
        return F.linear(x, weight, bias)

    def other() -> Tensor:
        return packed(x, bias)

    similarity = F.cosine_similarity(plain().flatten().float(), other().flatten().float(), dim=0)
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + _TIME
    while len(times[0]) <= _TRIES or time.perf_counter() < end:
        for run, spent in zip((plain, other), times, strict=True):
            begin = time.perf_counter()
            run()
            spent.append(time.perf_counter() - begin)
    return bool(similarity > 0.999) and min(times[1]) <= _GAIN * min(times[0])
