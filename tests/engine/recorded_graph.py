"""Stands in for CUDA graphs: writes down what a function launches, and does it again on the same tensors.

As on a GPU, nothing of Python runs when it does: what depended on the host's knowledge of the first step gives wrong
answers in later ones, and what waits for the device raises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

_WAITING = frozenset({"_local_scalar_dense", "nonzero", "masked_select", "unique_consecutive", "is_nonzero", "equal"})


class RecordedGraphs:
    """See `engine.decode_graph.Capture`. `launch`: takes the launches of programs in Triton, which it writes down too;
    `launches`: how many the last replay had; `programs`: the names of the programs that the last capture launches."""

    def __init__(self, launch: Callable[..., None]) -> None:
        self._launch = launch
        self._recording: list[Callable[[], None]] | None = None
        self.launches = 0
        self.programs: list[str] = []

    def launch(self, program: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        """See `kernels.cuda.launch.Launch`."""
        if self._recording is not None:
            self.programs.append(program.fn.__name__)
            self._recording.append(lambda: self._launch(program, grid, *arguments, **constants))
        with _disable_current_modes():  # the interpreter's own work is not the program's
            self._launch(program, grid, *arguments, **constants)

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        """Poisons the result, so that only a replay gives an answer."""
        recorded = self._recording = []
        self.programs = []
        try:
            with _Recorder(recorded):
                result = run()
        finally:
            self._recording = None
        result.fill_(float("nan"))

        def replay() -> None:
            for again in recorded:
                again()
            self.launches = len(recorded)

        return result, replay


class _Recorder(TorchDispatchMode):
    def __init__(self, recorded: list[Callable[[], None]]) -> None:
        super().__init__()
        self._recorded = recorded

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        with self:  # in inference mode operators come whole that are made of others
            parts = func.decompose(*args, **given)
        if parts is not NotImplemented:
            return parts
        name = func.overloadpacket.__name__
        if name in _WAITING:
            raise RuntimeError(f"{name} waits for the device, which cannot be captured")
        if name == "_to_copy" and not all(_here(t) for t in tree_leaves((args, given)) if isinstance(t, Tensor)):
            raise RuntimeError("a copy from the host cannot be captured")
        out = func(*args, **given)
        inputs = {t.untyped_storage().data_ptr() for t in tree_leaves((args, given)) if isinstance(t, Tensor)}
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        mutates = func._schema.is_mutable
        fresh = [t for t in made if t.untyped_storage().data_ptr() not in inputs]
        if mutates or fresh:
            # What a call changed in place it changes again; what it made is written where it was made.
            def again() -> None:
                new = [t for t in tree_leaves(func(*args, **given)) if isinstance(t, Tensor)]
                for old, other in zip(made, new, strict=True):
                    if old.untyped_storage().data_ptr() not in inputs and old.numel():
                        old.copy_(other)

            if name not in ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"):
                self._recorded.append(again)
            else:
                self._recorded.append(lambda: tree_map(_poison, made) and None)
        return out


def _here(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _poison(tensor: Tensor) -> Tensor:
    return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor
