"""Mask-tuning: a bit for every weight of the chosen linear layers (Zhao et al. 2020, section 3).

    y = (W * M) x + b        M = 1[scores > threshold], one bit a weight in the file and in host memory

In a slot it stays one bit a weight where the kernels read bits; else the masked weights are dense there, so that the
task's layers cost what the backbone's do.
"""

from manyhats.methods.mask.config import MaskConfig, pack_bits
from manyhats.methods.mask.method import Mask

__all__ = ["Mask", "MaskConfig", "pack_bits"]
