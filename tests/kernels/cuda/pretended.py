"""The kernels in Triton on the pretended device, where launches are counted and nothing is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from manyhats.kernels.cuda.backend import CudaKernels
from torch import Tensor

from tests.launches.device import host_values
from tests.launches.device_counts import Count


class PretendedGraphs:
    """Stands in for CUDA graphs. A replay, which is one launch, does all again, uncounted: `tests.engine` has one that
    does not. What is captured must not copy, wait or read."""

    def __init__(self, kernels: PretendedCuda) -> None:
        self._kernels = kernels

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        count = self._kernels.count
        before = count.totals()
        result = run()
        after = count.totals()
        assert all(after[name] == before[name] for name in ("copies", "reads", "waits")), count.report()

        def replay() -> None:
            with self._kernels.count.one_kernel("graph"):
                result.copy_(run())

        return result, replay


# Which argument a program writes to that nobody wrote to before.
_WRITTEN = {"linear": 1, "masked_linear": 1, "shrink": 1, "attend_rows": 5, "merge_splits": 0, "rms_norm": 2}


class PretendedCuda(CudaKernels):
    """`count`: where launches are written down. What a program would write is zero: the interpreter takes its time, and
    other tests."""

    def __init__(self) -> None:
        super().__init__(self._counted)
        self.count = Count()

    def _counted(self, program: Any, grid: Any, *arguments: Any, **constants: Any) -> None:
        name = program.fn.__name__
        with self.count.one_kernel(name):
            if name in _WRITTEN:
                host_values(arguments[_WRITTEN[name]]).zero_()
