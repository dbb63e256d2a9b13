"""Stands in for CUDA graphs: writes down what a function launches, and does it again on the same tensors.

As on a GPU, nothing of Python runs when it does: what depended on the host's knowledge of the first step gives wrong
answers in later ones, and what waits for the device raises. Nor does a graph keep what it reads: memory from before it
that nobody else keeps is gone, which raises too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

_WAITING = frozenset({"_local_scalar_dense", "nonzero", "masked_select", "unique_consecutive", "is_nonzero", "equal"})


class RecordedGraphs:
    """See `engine.decode_graph.Capture`. `launch`: takes the launches of programs in Triton, which it writes down too;
    `launches`: how many the last replay had; `programs`: the names of the programs that the last capture launches."""

    def __init__(self, launch: Callable[..., None]) -> None:
        self._launch = launch
        self._recording: _Recorder | None = None
        self.launches = 0
        self.programs: list[str] = []

    def launch(self, program: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        """See `kernels.cuda.launch.Launch`."""
        if self._recording is not None:
            self.programs.append(program.fn.__name__)
            given = self._recording.kept(arguments)
            self._recording.calls.append(lambda: self._launch(program, grid, *_found(given), **constants))
        with _disable_current_modes():  # the interpreter's own work is not the program's
            self._launch(program, grid, *arguments, **constants)

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        """Poisons the result, so that only a replay gives an answer."""
        recording = self._recording = _Recorder()
        self.programs = []
        try:
            with recording:
                result = run()
        finally:
            self._recording = None
        result.fill_(float("nan"))

        def replay() -> None:
            for again in recording.calls:
                again()
            self.launches = len(recording.calls)

        return result, replay


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], None]] = []
        self._made: dict[int, Tensor] = {}  # by their memory, which belongs to the graph

    def kept(self, arguments: Any) -> Any:
        """The arguments of a call, of which the graph keeps the tensors that it made itself alone."""
        return tree_map(lambda one: _Elsewhere(one) if self._is_elsewhere(one) else one, arguments)

    def _is_elsewhere(self, one: Any) -> bool:
        return isinstance(one, Tensor) and one.numel() > 0 and one.untyped_storage().data_ptr() not in self._made

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
        again_given = self.kept((args, given))
        fresh = [t for t in made if t.untyped_storage().data_ptr() not in inputs]
        self._made.update((t.untyped_storage().data_ptr(), t) for t in fresh)
        if mutates or fresh:
            # What a call changed in place it changes again; what it made is written where it was made.
            def again() -> None:
                words, named = _found(again_given)
                new = [t for t in tree_leaves(func(*words, **named)) if isinstance(t, Tensor)]
                for old, other in zip(made, new, strict=True):
                    if old.untyped_storage().data_ptr() not in inputs and old.numel():
                        old.copy_(other)

            if name not in ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"):
                self.calls.append(again)
            else:
                self.calls.append(lambda: tree_map(_poison, made) and None)
        return out


class _Elsewhere:
    """A tensor from before the graph, which does not keep its memory."""

    def __init__(self, tensor: Tensor) -> None:
        self._memory = StorageWeakRef(tensor.untyped_storage())
        self._dtype = tensor.dtype
        self._place = tensor.storage_offset(), tensor.size(), tensor.stride()

    def found(self) -> Tensor:
        memory = torch.UntypedStorage._new_with_weak_ptr(self._memory.cdata)
        if memory is None:
            raise RuntimeError("a graph reads memory that is gone")
        with torch.inference_mode():
            return torch.empty(0, dtype=self._dtype).set_(memory, *self._place)


def _found(kept: Any) -> Any:
    return tree_map(lambda one: one.found() if isinstance(one, _Elsewhere) else one, kept)


def _here(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _poison(tensor: Tensor) -> Tensor:
    return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor
