"""Loads the C library of `kernels.c`, checks whether it can be used, and declares its functions.

It is compiled when the package is built, where there is a C compiler (see setup.py). It holds the loops for several
instruction sets ("variants"), of which the best one that the processor supports is used. For tests,
MANYHATS_CPU_KERNELS forces one: `baseline`, `avx2`, `avx512`, `avx512_bf16` or `amx`.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import c_float, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import torch

from manyhats.errors import ConfigurationError

FILE = Path(__file__).with_name("_kernels.so")
VARIANTS = ("baseline", "avx2", "avx512", "avx512_bf16", "amx")
VARIABLE = "MANYHATS_CPU_KERNELS"

_ABI = 5  # the number in kernels.c
_DTYPES = {torch.float32: "f32", torch.bfloat16: "bf16"}
_SEGMENTS = [c_void_p, c_int64]
_SLOTS = [c_void_p, c_int64]
_MATRICES = [c_void_p, c_void_p, c_int64, c_int64, c_int64, c_int64, c_int64]
_ARGUMENTS = {
    "low_rank": [c_int32, *_MATRICES, *_SEGMENTS, *_SLOTS, c_void_p, c_int64, c_int32],
    "scale_add": [c_int32, c_void_p, c_int64, c_int64, c_int64, *_SEGMENTS, *_SLOTS, c_int32],
    "linear": [c_int32, *_MATRICES, *_SEGMENTS, *_SLOTS, c_int32],
    "sparse_add": [c_int32, *_MATRICES, *_SEGMENTS, *_SLOTS, c_int32],
    "masked_linear": [c_int32, *_MATRICES, *_SEGMENTS, *_SLOTS, c_void_p, c_void_p, c_int32],
    "add_norm": [c_int32, *[c_void_p] * 3, *[c_int64] * 5, *_SEGMENTS, c_void_p, c_void_p, c_float, c_int32],
    "weigh": [c_int32, c_void_p, c_void_p, *[c_int64] * 5, *_SEGMENTS, c_int32, c_int32],
    "attend_rows": [c_int32, *[c_void_p] * 7, *[c_int64] * 4, c_float, *[c_void_p] * 3, c_int64, c_int32],
}
_FAILURES = {
    1: "there is no memory for what it keeps between its two products",
    2: "a segment's rows, a slot's outputs, or rows of the cache lie outside the tensors",
    3: "this build has no such variant",
    4: "a segment's slot has nothing at this site",
}


class Library:
    """The functions of one variant, by dtype: `low_rank`, `scale_add`, and so on, as `_ARGUMENTS` has them.

    Their arguments are in low_rank.h and its like.

    Each returns 0, or a code that `failure` explains. `threaded`: whether they run on torch's threads. Raises
    ConfigurationError where the file is missing, cannot be loaded or is of another version, and for a variant that
    does not exist or that the processor cannot run.
    """

    def __init__(self, variant: str | None = None, file: Path | None = None) -> None:
        file = file or FILE
        if not file.exists():
            raise ConfigurationError(
                "the package was built without a C compiler: install one, and install manyhats again"
            )
        try:
            library = ctypes.CDLL(str(file))
            abi = library.manyhats_abi()
        except (OSError, AttributeError) as error:
            raise ConfigurationError(f"{file.name} cannot be loaded: {error}") from None
        if abi != _ABI:
            raise ConfigurationError(
                f"{file.name} was compiled from other sources (version {abi}, not {_ABI}): install manyhats again"
            )
        self.variants = VARIANTS[: library.manyhats_best_variant() + 1]
        self.variant = self.variants[-1] if variant is None else variant
        if self.variant not in self.variants:
            raise ConfigurationError(
                f"the CPU kernels have no variant '{variant}' on this processor; it runs {', '.join(self.variants)}"
            )
        self.number = VARIANTS.index(self.variant)
        functions = {name: _functions(library, name) for name in _ARGUMENTS}
        self.low_rank, self.scale_add, self.linear = (functions[name] for name in ("low_rank", "scale_add", "linear"))
        self.sparse_add, self.masked_linear = functions["sparse_add"], functions["masked_linear"]
        self.attend_rows, self.add_norm, self.weigh = (functions[n] for n in ("attend_rows", "add_norm", "weigh"))
        openmp = _torch_openmp()
        self.threaded = openmp is not None
        use_threads = library.manyhats_use_threads
        use_threads.argtypes, use_threads.restype = [c_void_p, c_void_p], None
        use_threads(*(openmp or (None, None)))
        # A forked child has none of OpenMP's threads, and a call that waited for them would never return.
        os.register_at_fork(after_in_child=lambda: use_threads(None, None))

    @staticmethod
    def failure(name: str, code: int) -> RuntimeError:
        """The error for a function's return code other than 0."""
        return RuntimeError(f"the CPU kernel {name} failed: {_FAILURES.get(code, f'code {code}')}")


@cache
def load() -> Library:
    """The library with the best variant, or the one that MANYHATS_CPU_KERNELS names. Raises ConfigurationError."""
    return Library(os.environ.get(VARIABLE) or None)


def missing() -> str | None:
    """Why the library cannot be used; None where it can."""
    try:
        load()
    except ConfigurationError as error:
        return error.message
    return None


def _functions(library: Any, name: str) -> dict[torch.dtype, Any]:
    found = {}
    for dtype, suffix in _DTYPES.items():
        function = library[f"manyhats_{name}_{suffix}"]
        function.argtypes, function.restype = _ARGUMENTS[name], c_int32
        found[dtype] = function
    return found


def _torch_openmp() -> tuple[int | None, int | None] | None:
    """The addresses of GOMP_parallel and omp_get_thread_num in torch's OpenMP runtime, whatever its file is called.

    GNU's runtime and LLVM's both have them. A search through the handle of torch's library finds what that one is
    linked with, never another runtime of the process. torch has no public way to its runtime. None: torch is built
    without OpenMP.
    """
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        path = Path(torch.__file__).parent / "lib" / name
        if path.exists():
            try:
                runtime = ctypes.CDLL(str(path))
                functions = runtime.GOMP_parallel, runtime.omp_get_thread_num
                return ctypes.cast(functions[0], c_void_p).value, ctypes.cast(functions[1], c_void_p).value
            except (OSError, AttributeError):
                return None
    return None
