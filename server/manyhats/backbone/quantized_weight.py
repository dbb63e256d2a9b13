"""What tells a weight in 8 bits, which torchao computes with, from a plain one; see `quantization`."""

from __future__ import annotations

import sys
from typing import Any


def is_quantized(weight: Any) -> bool:
    """Whether a weight is one of torchao's, which is imported only where there are some."""
    torchao = sys.modules.get("torchao.utils")
    return torchao is not None and isinstance(weight, torchao.TorchAOBaseTensor)
