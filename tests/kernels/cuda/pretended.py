"""The kernels in Triton on the pretended device: interpreted, and counted as launches."""

from __future__ import annotations

from typing import Any

from manyhats.kernels.cuda.backend import CudaKernels

from tests.launches.device import host_values
from tests.launches.device_counts import Count


class PretendedCuda(CudaKernels):
    """`count`: where launches are written down."""

    def __init__(self) -> None:
        super().__init__(self._counted)
        self.count = Count()

    def _counted(self, program: Any, grid: Any, *arguments: Any, **constants: Any) -> None:
        with self.count.one_kernel(program.fn.__name__):
            program[grid](*[host_values(one) if hasattr(one, "data_ptr") else one for one in arguments], **constants)
