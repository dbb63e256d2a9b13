"""Compiles the programs for GPUs, which needs none: `python -m tests.kernels.cuda.compiled CAPABILITY [all]`.

The interpreter runs what the compiler refuses, such as a variable that changes its shape. Without `all`: in bfloat16
for few rows of a task. Prints a line for each: name, type, rows of a tile, bytes of shared memory.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from manyhats.kernels.base import Bits, JoinedPair, LowRank, Rows, ScaleAdd, Sparse, Weight
from manyhats.kernels.cuda.backend import CudaKernels
from manyhats.kernels.segments import Segment, Segments, Table
from triton import compile as compile_for
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

WIDTH, OUT = 768, 1536
TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.int64: "i64", torch.int32: "i32"}
WARP = 32


class Compiling:
    """In the place of launches."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, WARP)
        self._done: set[str] = set()

    def __call__(self, program: Any, grid: Any, *arguments: Any, **constants: Any) -> None:
        names = program.arg_names
        constants = {
            n: p.default for n, p in program.signature.parameters.items() if p.default is not p.empty
        } | constants
        signature: dict[str, str] = {}
        values: dict[tuple[int], Any] = {}
        attributes: dict[tuple[int], Any] = {}
        for i, (name, given) in enumerate(zip(names, arguments, strict=False)):
            fixed = program.params[i].do_not_specialize
            if given is None or (type(given) is int and given == 1 and not fixed):  # as Triton itself takes them
                signature[name], values[(i,)] = "constexpr", given
            elif isinstance(given, float):
                signature[name] = "fp32"
            else:
                signature[name] = f"*{TYPES[given.dtype]}" if isinstance(given, torch.Tensor) else "i32"
                if not fixed and (isinstance(given, torch.Tensor) or given % 16 == 0):
                    attributes[(i,)] = [["tt.divisibility", 16]]
        for name, given in constants.items():
            signature[name], values[(names.index(name),)] = "constexpr", given
        key = f"{program.fn.__name__} {signature} {values}"
        if key not in self._done:
            self._done.add(key)
            made = compile_for(ASTSource(program, signature, values, attributes), target=self._target)
            element = next(
                TYPES[a.dtype] for a in arguments[:2] if isinstance(a, torch.Tensor) and a.is_floating_point()
            )
            print(program.fn.__name__, element, constants.get("ROWS", "-"), made.metadata.shared, flush=True)


def run(kernels: Any, dtype: torch.dtype, rows: int) -> None:
    """Every operation, of two tasks with so many rows each."""
    segments = Segments([Segment(0, rows, 0), Segment(rows, 2 * rows, 1)])

    def made(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype)

    def table(entry: Any) -> Table[Any]:
        found: Table[Any] = Table()
        found.put(0, entry)
        found.put(1, entry)
        return found

    x, y = made(2 * rows, WIDTH), made(2 * rows, OUT)
    indices = torch.zeros(9, dtype=torch.int32)
    kernels.low_rank(x, y, table(LowRank(made(8, WIDTH), made(8, OUT))), segments)
    kernels.low_rank(x, y, table(LowRank(made(64, WIDTH), made(64, OUT))), segments, made(2 * rows, 1))
    for sites in (2, 3):
        own = [JoinedPair(y, table(LowRank(made(8, WIDTH), made(8, OUT))), segments) for _ in range(sites)]
        kernels.joined_low_rank(x, own, segments)
    kernels.scale_add(y, table(ScaleAdd(made(OUT))), segments)
    kernels.scale_add(y.view(2 * rows, 2, -1), table(ScaleAdd(made(OUT // 2))), segments)
    kernels.linear(x, y, table(Weight(made(OUT, WIDTH))), segments)
    kernels.linear(x, made(2 * rows, 2), table(Weight(made(2, WIDTH), made(2))), segments)
    bits = table(Bits(torch.zeros(OUT * WIDTH // 8, dtype=torch.uint8)))
    for base, bias in ((made(OUT, WIDTH), made(OUT)), (made(WIDTH, OUT).T, None)):
        kernels.masked_linear(x, y, base, bias, bits, segments)
    kernels.lookup(torch.zeros(2 * rows, dtype=torch.int64), x, table(Rows(made(5, WIDTH), torch.arange(5))), segments)
    kernels.sparse_add(x, y, table(Sparse(indices, made(9))), segments)
    kernels.rms_norm(x, made(WIDTH), 1e-6)


def attend(kernels: CudaKernels, dtype: torch.dtype, heads: int, kv_heads: int, dim: int) -> None:
    """Attention with new keys and without, of few sequences and of many."""
    attention: Any = kernels.row_attention
    cache = torch.zeros(2, 4096, kv_heads, dim, dtype=dtype).unbind(0)
    zeros = torch.zeros(1025, dtype=torch.int64)
    for count in (1, 1024):
        new = torch.zeros(2, count, kv_heads, dim, dtype=dtype).unbind(0)
        for added in (new, None):
            q = torch.zeros(count, heads, dim, dtype=dtype)
            attention(q, added, cache, zeros, zeros[: count + 1], zeros[:count], 0.1)


def main(capability: int, everything: bool) -> None:
    """Compiles all."""
    kernels = CudaKernels(Compiling(capability))
    with torch.inference_mode():
        for dtype in (torch.bfloat16, torch.float32, torch.float16) if everything else (torch.bfloat16,):
            for rows in (1, 100) if everything else (1,):
                run(kernels, dtype, rows)
            attend(kernels, dtype, 32, 8, 128)
            if everything:
                attend(kernels, dtype, 12, 12, 64)


if __name__ == "__main__":
    main(int(sys.argv[1]), "all" in sys.argv[2:])
