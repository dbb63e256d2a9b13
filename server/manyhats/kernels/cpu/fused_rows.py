"""Several operations on a row in one call of the C library."""

from __future__ import annotations

import torch
from torch import Tensor

from manyhats.kernels.activations import NUMBERS
from manyhats.kernels.cpu.library import Library, load
from manyhats.kernels.segments import Segments


class CpuFusedRows:
    """See `kernels.base.FusedRows`. For float32 and bfloat16, on torch's own threads; sums are in float32. Raises
    ConfigurationError where the library cannot be used."""

    def __init__(self, library: Library | None = None) -> None:
        self._library = library or load()

    def supports(self, dtype: torch.dtype, activation: str | None = None) -> bool:
        """Whether it computes in this type, and this activation."""
        return dtype in self._library.add_norm and (activation is None or activation.lower() in NUMBERS)

    def add_norm(
        self, f: Tensor, x: Tensor, gain: Tensor | None, offset: Tensor | None, epsilon: float, segments: Segments
    ) -> Tensor:
        """See `kernels.base.FusedRows`."""
        f, x = _rows(f), _rows(x)
        own = [t.contiguous() for t in (gain, offset) if t is not None]
        assert all(t.dtype is f.dtype for t in (x, *own)), "tensors of several types"
        assert f.shape == x.shape, "summands of other shapes"
        assert all(t.shape == f.shape[1:] for t in own), "a gain or offset of another width"
        y = torch.empty(f.shape, dtype=f.dtype)
        code = self._library.add_norm[f.dtype](
            self._library.number,
            f.data_ptr(),
            x.data_ptr(),
            y.data_ptr(),
            *f.shape,
            f.stride(0),
            x.stride(0),
            y.stride(0),
            segments.host.data_ptr(),
            len(segments),
            None if gain is None else own[0].data_ptr(),
            None if offset is None else own[-1].data_ptr(),
            epsilon,
            torch.get_num_threads(),
        )
        if code:
            raise Library.failure("add_norm", code)
        return y

    def weigh_members(self, low: Tensor, members: int, activation: str | None, segments: Segments) -> Tensor:
        """See `kernels.base.FusedRows`."""
        low = _rows(low)
        rows, columns = low.shape
        size = (columns - members) // 2
        assert columns == 2 * size + members, "columns of another number of members"
        assert size % members == 0, "members of several widths"
        y = torch.empty((rows, size + members), dtype=low.dtype)
        code = self._library.weigh[low.dtype](
            self._library.number,
            low.data_ptr(),
            y.data_ptr(),
            rows,
            size,
            members,
            low.stride(0),
            y.stride(0),
            segments.host.data_ptr(),
            len(segments),
            0 if activation is None else NUMBERS[activation.lower()],
            torch.get_num_threads(),
        )
        if code:
            raise Library.failure("weigh", code)
        return y


def _rows(t: Tensor) -> Tensor:
    """The same, with the numbers of a row side by side."""
    return t if t.stride(1) == 1 else t.contiguous()
