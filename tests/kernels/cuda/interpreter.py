"""Triton's interpreter, which runs the programs on the CPU, one after another, where `tests.conftest` found no GPU; on
a machine with one they are compiled and run there.

Import this before the programs. It mends two gaps of Triton 3.6 to 3.7: numbers in an array of one, of which NumPy 2.4
and newer make no index, and products of bfloat16. While it runs no coverage is measured,
which would take as long again.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu") if INTERPRETED else torch.device("cuda", 0)


def _mend() -> None:
    import triton.language as tl
    from triton.runtime import interpreter

    dot, patch_tensor = interpreter.InterpreterBuilder.create_dot, interpreter._patch_lang_tensor

    def widened(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return interpreter.TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def patched(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(np.asarray(self.handle.data).reshape(-1)[0]))

    interpreter.InterpreterBuilder.create_dot = lambda self, a, b, *rest: dot(self, widened(a), widened(b), *rest)
    interpreter._patch_lang_tensor = patched

    run = interpreter.GridExecutor.__call__

    def untraced(self: Any, *args: Any, **given: Any) -> Any:
        tracer = sys.gettrace()
        sys.settrace(None)
        try:
            return run(self, *args, **given)
        finally:
            sys.settrace(tracer)

    interpreter.GridExecutor.__call__ = untraced


if INTERPRETED:
    _mend()
