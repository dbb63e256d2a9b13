"""Activation functions by the names that adapter files use.

transformers does not document `ACT2FN`, but libraries write its names into their files, and nothing public maps them to
functions. It is used here alone, and `tests/kernels/test_internals.py` watches it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from manyhats.errors import AdapterMismatch

# The numbers by which the backends in C and in Triton know functions (`cpu/activations.h`, `cuda/activations.py`), by
# the names that adapter files use (transformers' ACT2FN), in lower case.
NUMBERS = {
    "linear": 0,
    "relu": 1,
    "gelu": 2,
    "gelu_python": 2,
    "gelu_new": 3,
    "gelu_fast": 3,
    "gelu_accurate": 3,
    "gelu_pytorch_tanh": 3,
    "gelu_python_tanh": 3,
    "tanh": 4,
    "silu": 5,
    "swish": 5,
    "sigmoid": 6,
    "quick_gelu": 7,
    "leaky_relu": 8,
    "leakyrelu": 8,
    "relu2": 9,
    "relu6": 10,
    "gelu_10": 11,
    "mish": 12,
    "hardswish": 13,
    "laplace": 14,
}


@cache
def activation(name: str) -> Callable[[Tensor], Tensor]:
    """transformers' activation of that name, or AdapterHub's `leakyrelu`. Raises AdapterMismatch for other names.

    Activations with weights of their own (`prelu`, `xielu`) are not supported, because adapter files have no such
    weights.
    """
    if name.lower() == "leakyrelu":
        return F.leaky_relu
    try:
        function: Callable[[Tensor], Tensor] = ACT2FN[name.lower()]
    except KeyError:
        raise AdapterMismatch(f"the activation '{name}' is not known", param="non_linearity") from None
    if isinstance(function, nn.Module) and next(function.parameters(), None) is not None:
        raise AdapterMismatch(f"the activation '{name}' has weights of its own", param="non_linearity")
    return function
