"""Prepacks frozen weights: makes copies in the layout of the CPU's matrix kernels.

oneDNN otherwise reorders a weight at every call, which costs most for few rows and a large weight: in decode steps.
The operators are private to torch; where they are missing, slower or fail, the plain product is used. Which is faster
depends on the machine, the shape and the number of rows, so it is measured once for each shape.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from manyhats.backbone.prepacked_weight import PrepackedWeight
from manyhats.backbone.sites import LinearSite
from manyhats.messages import first_line

logger = logging.getLogger(__name__)

_ROWS = (1, 4, 16, 64)  # numbers of rows that are tried
_TRIES = 7
_GAIN = 0.97  # maximum share of the plain product's time
_SHARE = 0.25  # maximum share of the free memory


@torch.inference_mode()
def prepack(sites: Iterable[LinearSite]) -> int:
    """Prepacks the weights of sites where that is faster. Returns the copies' bytes.

    Does nothing on devices other than the CPU, or where memory is short.
    """
    chosen = [site for site in sites if site.weight.device.type == "cpu"]
    needed = sum(site.weight.nbytes for site in chosen)
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not chosen or not available or needed > _SHARE * _free_memory():
        return 0
    min_rows: dict[Any, int | None] = {}
    nbytes = 0
    for site in chosen:
        key = (tuple(site.weight.shape), site.weight.dtype, site.bias is None)
        if key not in min_rows:
            min_rows[key] = _min_rows(site)
        rows = min_rows[key]
        if rows is not None:
            site.prepacked = PrepackedWeight(site.weight, rows)
            nbytes += site.weight.nbytes
    if nbytes:
        logger.info("weights packed for the CPU: %d MB more", nbytes >> 20)
    return nbytes


def _min_rows(site: LinearSite) -> int | None:
    """The smallest tried number of rows from which on a prepacked weight is always faster; None where it never is."""
    min_rows: int | None = None
    try:
        packed = PrepackedWeight(site.weight, 1)
        for rows in reversed(_ROWS):
            if not _faster(packed, site, torch.randn(rows, site.weight.shape[1]).to(site.weight.dtype)):
                break
            min_rows = rows
    except (RuntimeError, AttributeError) as error:
        logger.info("weights stay as they are: %s", first_line(error))
    return min_rows


def _faster(packed: PrepackedWeight, site: LinearSite, x: Tensor) -> bool:
    """Whether a prepacked weight gives the same result faster; both run alternately, so that noise affects both."""

    def plain() -> Tensor:
        return F.linear(x, site.weight, site.bias)

    def other() -> Tensor:
        return packed(x, site.bias)

    similarity = F.cosine_similarity(plain().flatten().float(), other().flatten().float(), dim=0)
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(_TRIES + 1):
        for run, spent in zip((plain, other), times, strict=True):
            begin = time.perf_counter()
            run()
            if i:  # the first warms up
                spent.append(time.perf_counter() - begin)
    return bool(similarity > 0.999) and median(times[1]) <= _GAIN * median(times[0])


def _free_memory() -> int:
    """Bytes; 0 where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        return 0
