"""The config of a mask, and how its bits are stored."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

from manyhats.methods.component import MethodConfig

NAME: Final = "mask"


class MaskConfig(MethodConfig):
    """`shapes`: (out, in) of every masked weight, by site."""

    shapes: dict[str, tuple[int, int]]


def pack_bits(keep: Tensor) -> Tensor:
    """A boolean (out, in) as bytes: row-major, the first weight in the lowest bit, the last byte filled with zeros."""
    return torch.from_numpy(np.packbits(keep.cpu().numpy().reshape(-1), bitorder="little"))
