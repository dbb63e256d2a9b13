"""Each operation of the kernels in Triton in real sizes beside float64, and its time beside the floor."""

from __future__ import annotations

import importlib.util
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from manyhats.kernels.reference import Reference
from manyhats.kernels.segments import Segments

from device.child import Run, attempt, figure, left, report
from device.kernel_cases import Case, Made, Whole, calls, wholes
from device.targets import KERNELS
from device.timing import floor, sync, timed

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp16": torch.float16}


@torch.inference_mode()
def run() -> None:
    """All types; times in bfloat16."""
    if importlib.util.find_spec("triton") is None:
        report("kernels", "left out: Triton is not installed")
        return
    from tests.kernels.cuda import interpreter

    report("interpreted", interpreter.INTERPRETED)
    looked = Looked()
    for kind in DTYPES:
        attempt(kind, looked.at, kind)
        figure(KERNELS, looked.over)


class Looked:
    """What was compared so far. `over`: cases with a larger error than a type's rounding explains."""

    def __init__(self) -> None:
        from manyhats.kernels.cuda.backend import CudaKernels

        self.kernels = CudaKernels()
        self.over = 0

    def at(self, kind: str) -> None:
        """All cases in one type."""
        made = Made(DTYPES[kind])
        begin = time.time()
        for name, case in calls(made):
            attempt(f"{kind}/{name}", self._call, f"{kind}/{name}", case, kind == "bf16")
        for name, whole in wholes(made, self.kernels):
            attempt(f"{kind}/{name}", self._whole, f"{kind}/{name}", whole, kind == "bf16")
        report(f"{kind}: seconds, compiling among them", round(time.time() - begin, 1))

    def _call(self, name: str, make: Callable[[], Case], measured: bool) -> None:
        from tests.kernels.cuda.operands import CLOSE, error_of

        case = make()
        operation, given, y, segments, size, flops, more = case
        with poisoned():
            error = error_of(self.kernels, operation, given, y.clone(), Segments(list(segments)), **more)
        found = self._found(error, CLOSE[y.dtype])
        report(name, found)
        if measured and left() > 8:
            out, own = y.clone(), Segments(list(segments))

            def called(kernels: Any) -> Callable[[], Any]:
                place = given.index(None)  # later ones are a bias that there is not
                arguments = [*given[:place], out, *given[place + 1 :]]
                return lambda: getattr(kernels, operation)(*arguments, own, **more)

            times = self._times(called(self.kernels), size, flops)
            if left() > 20:
                times["reference_ms"] = round(device_ms(called(Reference())), 4)
            report(name, found | times)

    def _whole(self, name: str, make: Callable[[], Whole], measured: bool) -> None:
        from tests.kernels.cuda.operands import CLOSE

        one = make()
        with poisoned():
            got = one(self.kernels)
        expected = one.expected()
        found = self._found(float((got.double() - expected).norm() / expected.norm()), CLOSE[got.dtype])
        report(name, found)
        if measured and left() > 4:
            report(name, found | self._times(lambda: one(self.kernels), one.size, one.flops))

    def _found(self, error: float, most: float) -> dict[str, Any]:
        wrong = not error <= most  # not a number too
        self.over += wrong
        return {"error": float(f"{error:.2g}")} | ({"over": most} if wrong else {})

    def _times(self, call: Callable[[], Any], size: int, flops: int) -> dict[str, float]:
        """`host_us`: until the call came back, of many in a row."""
        ms = device_ms(call)
        count = 2 if Run.small else 30
        host = timed(lambda: [call() for _ in range(count)])[1] * 1e3 / count
        return {"ms": round(ms, 4), "floor_ms": round(floor()(size, flops), 4), "host_us": round(host, 1)}


def device_ms(call: Callable[[], Any]) -> float:
    """Of one call, with a cold cache; where there is no CUDA device simply its time."""
    call()
    sync()
    if Run.device != "cuda":
        return statistics.median(timed(call)[0] for _ in range(2))
    from triton.testing import do_bench

    return float(do_bench(call, warmup=4, rep=20, return_mode="median"))


@contextmanager
def poisoned() -> Iterator[None]:
    """torch's new memory begins as not a number, so that what nobody wrote shows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)
