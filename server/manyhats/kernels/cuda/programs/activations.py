"""Activations by their numbers in `kernels.activations`, in float32. NaN stays NaN."""

import triton
import triton.language as tl


@triton.jit
def tanh(x):
    """Without overflow: e^(-2 |x|) is at most 1."""
    e = tl.exp(-2.0 * tl.abs(x))
    y = (1.0 - e) / (1.0 + e)
    return tl.where(x < 0.0, -y, y)


@triton.jit
def sigmoid(x):
    """1 / (1 + e^-x), without overflow."""
    e = tl.exp(-tl.abs(x))
    return tl.where(x < 0.0, e, 1.0) / (1.0 + e)


@triton.jit
def between(x, low, high):
    """The nearest number from `low` to `high`."""
    x = tl.where(x < low, low, x)
    return tl.where(x > high, high, x)


@triton.jit
def gelu(x):
    """With the error function."""
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def activate(x, which):
    """The function with the number `which`, a scalar, of a block `x`."""
    if which == 1:
        x = tl.where(x < 0.0, 0.0, x)
    elif which == 2:
        x = gelu(x)
    elif which == 3:
        x = 0.5 * x * (1.0 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))
    elif which == 4:
        x = tanh(x)
    elif which == 5:
        x = x * sigmoid(x)
    elif which == 6:
        x = sigmoid(x)
    elif which == 7:
        x = x * sigmoid(1.702 * x)
    elif which == 8:
        x = tl.where(x < 0.0, 0.01 * x, x)
    elif which == 9:
        x = tl.where(x < 0.0, 0.0, x * x)
    elif which == 10:
        x = between(x, 0.0, 6.0)
    elif which == 11:
        x = between(gelu(x), -10.0, 10.0)
    elif which == 12:  # x tanh(log(1 + e^x))
        e = tl.exp(tl.where(x > 20.0, 20.0, x))
        n = e * (e + 2.0)
        x = x * (n / (n + 2.0))
    elif which == 13:
        x = x * between(x + 3.0, 0.0, 6.0) / 6.0
    elif which == 14:
        x = 0.5 * (1.0 + tl.erf((x - 0.707107) / (0.282095 * 1.4142135623730951)))
    return x
