"""A device that pretends to be `cuda:0`: its tensors lie in host memory, and what a GPU would have to do is counted.

The real engine runs on it, so that launches, copies and waits can be tested on machines without a GPU. It is no faster
or slower than the CPU, and its answers are the CPU's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from manyhats.kernels.registry import BACKENDS
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from tests.launches.device_counts import Count, calling_line

DEVICE = torch.device("cuda:0")

# Operators that reserve memory and write nothing.
_ALLOCATIONS = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"})
# Operators whose result, or its shape, the host has to know before it goes on.
_VIEWS = frozenset({"view", "as_strided"})
_WAITING = frozenset(
    {
        "_local_scalar_dense", "_unique2", "allclose", "bincount", "equal", "is_nonzero", "masked_select", "nonzero",
        "unique_consecutive", "unique_dim",
    }
)  # fmt: skip
_INDEXING = frozenset({"index", "index_put", "index_put_", "_index_put_impl_"})
_FROM_HOST_DATA = (torch.tensor, torch.as_tensor, torch.asarray)


class PretendedTensor(Tensor):
    """Says that it lies on the device; `inner`, on the CPU, holds the values."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # results are plain tensors

    @staticmethod
    def __new__(cls, inner: Tensor) -> PretendedTensor:
        made: PretendedTensor = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, layout=inner.layout, device=DEVICE, requires_grad=False,
        )  # fmt: skip
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} meets a pretended tensor outside of `pretended_device`")

    def __repr__(self, **_: Any) -> str:
        return f"PretendedTensor({tuple(self.shape)}, {self.dtype})"


def _shares_memory(one: Tensor, others: Sequence[Tensor]) -> bool:
    address = one.untyped_storage().data_ptr()
    return any(address == other.untyped_storage().data_ptr() for other in others)


class _Ledger:
    """Writes down what happens, and knows which host memory is pinned."""

    def __init__(self) -> None:
        self.count = Count()
        self.waited = 0  # times, ever
        self._pinned: dict[int, Any] = {}  # storages by their address; held, so that no other gets it
        self.default = self.current = _Stream(self)

    @contextmanager
    def within(self, stream: _Stream) -> Iterator[None]:
        """What follows is put into the stream."""
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def copy(self, source: Tensor, *, non_blocking: bool) -> None:
        if self.count.paused:
            return
        place = calling_line()
        self.count.copies[place] += 1
        self.count.copied_bytes += source.nbytes
        if not (non_blocking and self.is_pinned(source)):
            self.count.blocking_copies[place] += 1

    def read(self) -> None:
        if not self.count.paused:
            self.count.reads[calling_line()] += 1
        self.wait("read")

    def wait(self, operator: str) -> None:
        self.waited += 1
        if not self.count.paused:
            self.count.waits[f"{calling_line()} ({operator})"] += 1

    def current_stream(self, device: Any = None) -> _Stream:
        return self.current

    def record_stream(self, stream: _Stream) -> None:
        """Of a tensor."""
        self.count.recorded_streams += 1

    def add_view(self, operator: str) -> None:
        if not self.count.paused:
            self.count.views[operator] += 1

    def index(self, index: Tensor) -> None:
        """CUDA takes indices from the host too, at the price of a copy; where a mask is set the host has to know."""
        if index.dtype in (torch.bool, torch.uint8):
            self.wait("index by a mask")
        elif index.dim() == 0 and isinstance(index, PretendedTensor):
            self.wait("index by a number on the device")
        if not isinstance(index, PretendedTensor) and index.dim() > 0:
            self.copy(index, non_blocking=False)

    def pin(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._pinned[storage.data_ptr()] = storage
        return tensor

    def is_pinned(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._pinned


class _Stream:
    """A stream beside the default one. Copies from pinned memory, which the host does not wait for, are made as late as
    can be: before other work of the stream, and when somebody waits for them. Before, their memory holds no numbers."""

    def __init__(self, ledger: _Ledger, *_: Any) -> None:
        self._ledger = ledger
        self._copies: list[Callable[[], object]] = []
        self.done = 0

    @property
    def given(self) -> int:
        """How many copies it was given."""
        return self.done + len(self._copies)

    def add(self, copy: Callable[[], object]) -> None:
        self._copies.append(copy)

    def run(self, until: int | None = None) -> None:
        """Makes the copies, all of them or so many since the beginning."""
        while self._copies and (until is None or self.done < until):
            self._copies.pop(0)()
            self.done += 1

    def wait_event(self, event: _Event) -> None:
        self._ledger.count.stream_waits += 1
        event.reach()

    def wait_stream(self, other: _Stream) -> None:
        other.run()


class _Event:
    """Stands in the queue of a stream's work. To wait for it costs nothing where the host has waited since, or where
    the copies before it have been made."""

    def __init__(self, ledger: _Ledger, **_: Any) -> None:
        self._ledger = ledger
        self._recorded = -1  # times that the host had waited then
        self._stream = ledger.default
        self._given = 0

    def record(self, stream: _Stream | None = None) -> None:
        self._ledger.count.events += 1
        self._recorded = self._ledger.waited
        self._stream = stream or self._ledger.current
        self._given = self._stream.given

    def query(self) -> bool:
        if self._stream is not self._ledger.default:
            return self._stream.done >= self._given
        return self._recorded < self._ledger.waited

    def reach(self) -> None:
        self._stream.run(self._given)

    def synchronize(self) -> None:
        if not self.query():
            self._ledger.wait("event")
            self.reach()


_LEDGER = _Ledger()  # one for all uses: what is pinned, and what stands in the queue, stays


class _Functions(TorchFunctionMode):
    """What torch does before it comes to operators, and would do with the device's memory itself."""

    def __init__(self, ledger: _Ledger) -> None:
        super().__init__()
        self._ledger = ledger

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        own = args[0] if args and isinstance(args[0], PretendedTensor) else None
        if func in _FROM_HOST_DATA or name == "new_tensor":
            return self._from_host_data(func, name, own, args, given)
        if func is F.scaled_dot_product_attention and any(isinstance(a, PretendedTensor) for a in args):
            return self._attention(func, args, given)
        if own is not None:
            match name:
                case "contiguous" | "copy_" | "nonzero":  # as operators: the methods ask CUDA's own code for the device
                    return getattr(torch.ops.aten, name)(*args, **given)
                case "tolist" | "item" | "__bool__" | "__int__" | "__float__" | "__index__":
                    self._ledger.read()
                    return getattr(own.inner, name)()
                case "data_ptr":
                    return own.inner.data_ptr()
                case "numpy" | "__array__":
                    raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
                case "__getitem__":
                    return self._get(own, args[1])
                case "__setitem__":
                    return self._set(own, args[1], args[2])
        elif args and isinstance(args[0], Tensor):
            if name == "copy_" and isinstance(args[1], PretendedTensor):
                return torch.ops.aten.copy_(*args, **given)
            if name == "pin_memory":
                return self._ledger.pin(args[0].clone())
            if name == "is_pinned":
                return self._ledger.is_pinned(args[0])
        return func(*args, **given)

    def _from_host_data(
        self, func: Any, name: str, own: PretendedTensor | None, args: tuple[Any, ...], given: dict[str, Any]
    ) -> Any:
        """A tensor made of numbers is made on the host first."""
        device = given.pop("device", None)
        there = torch.device(device).type == DEVICE.type if device is not None else own is not None
        if name == "new_tensor":
            assert own is not None or not there
            func, args = torch.tensor, args[1:]
            given.setdefault("dtype", own.dtype if own is not None else None)
            own = None
        if own is not None or not there:
            return func(*args, **given, **({} if device is None else {"device": device}))
        if given.pop("pin_memory", False):
            raise RuntimeError("only dense CPU tensors can be pinned")
        made = func(*args, **given)
        self._ledger.copy(made, non_blocking=False)
        return PretendedTensor(made)

    def _attention(self, func: Any, args: tuple[Any, ...], given: dict[str, Any]) -> PretendedTensor:
        """One kernel, as CUDA's fused ones are. The CPU's choice among its own would be taken apart."""
        _refuse_mixed_devices("scaled_dot_product_attention", tree_leaves((args, given)))
        self._ledger.count.add_kernel("scaled_dot_product_attention")
        args, given = tree_map(_unwrapped, (args, given))
        return PretendedTensor(func(*args, **given))

    # Indices in brackets: torch's own method asks CUDA for the device.

    def _get(self, own: PretendedTensor, index: Any) -> PretendedTensor:
        self._look_up(index)
        out = own.inner[tree_map(_unwrapped, index)]
        if _shares_memory(out, [own.inner]):
            self._ledger.add_view("index")
        else:
            self._ledger.count.add_kernel("index")
        return PretendedTensor(out)

    def _set(self, own: PretendedTensor, index: Any, value: Any) -> None:
        self._look_up(index)
        if isinstance(value, Tensor) and not isinstance(value, PretendedTensor) and value.dim() > 0:
            self._ledger.copy(value, non_blocking=False)
        else:
            self._ledger.count.add_kernel("index_put_")
        own.inner[tree_map(_unwrapped, index)] = _unwrapped(value)

    def _look_up(self, index: Any) -> None:
        """What indices cost by themselves: lists become tensors on the device, of masks and numbers the host waits."""
        for one in index if isinstance(index, tuple) else (index,):
            if isinstance(one, (list, np.ndarray)):
                self._ledger.copy(torch.as_tensor(one), non_blocking=False)
            elif isinstance(one, Tensor):
                self._ledger.index(one)


class _Operators(TorchDispatchMode):
    """Runs every operator on the CPU and counts it, where one of its tensors lies on the device."""

    def __init__(self, ledger: _Ledger) -> None:
        super().__init__()
        self._ledger = ledger

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        args, given = tree_map(_numbered, (args, dict(kwargs or {})))
        name: str = func.overloadpacket.__name__
        with self:  # in inference mode operators come whole that are made of others
            parts = func.decompose(*args, **given)
        if parts is not NotImplemented:
            return parts
        leaves = tree_leaves((args, given))
        there = [leaf for leaf in leaves if isinstance(leaf, PretendedTensor)]
        device = next((leaf for leaf in leaves if isinstance(leaf, torch.device)), None)
        pinned = given.get("pin_memory") is True
        indices = args[1] if name in _INDEXING else ()
        args, given = tree_map(_unwrapped, (args, given))
        if pinned:
            given["pin_memory"] = False
        if not there and (device is None or device.type != DEVICE.type):
            made = func(*args, **given)
            return self._ledger.pin(made) if pinned else made
        if name not in _ALLOCATIONS and name not in _VIEWS and not self._is_late(name, leaves):
            self._ledger.current.run()
        if name in ("_to_copy", "copy_", "_copy_from"):
            return self._copy(func, name, leaves, args, given, device)
        if name in _INDEXING:
            for leaf in tree_leaves(indices):
                if isinstance(leaf, Tensor):
                    self._ledger.index(leaf)
        else:
            _refuse_mixed_devices(name, leaves)
        out = func(*args, **given)
        if name in _WAITING or (name == "repeat_interleave" and given.get("output_size") is None):
            self._ledger.wait(name)
        known = {id(tensor.inner): tensor for tensor in there}
        sources = [tensor.inner for tensor in there]
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor) and id(t) not in known]
        in_place = len(made) < sum(isinstance(t, Tensor) for t in tree_leaves(out)) or out is None
        if name not in _ALLOCATIONS and (in_place or any(not _shares_memory(t, sources) for t in made)):
            self._ledger.count.add_kernel(name)
        else:
            self._ledger.add_view(name)

        def wrapped(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            return known[id(leaf)] if id(leaf) in known else PretendedTensor(leaf)

        return tree_map(wrapped, out)

    def _copy(
        self, func: Any, name: str, leaves: list[Any], args: Any, given: dict[str, Any], device: torch.device | None
    ) -> Any:
        """Within the device a kernel, but where the tensor is copied onto itself; else a copy or a read."""
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        target, source = (tensors[0], tensors[1]) if name == "copy_" else (None, tensors[0])
        leaves_device = isinstance(source, PretendedTensor)
        reaches = isinstance(target, PretendedTensor)
        if target is None:
            reaches = leaves_device if device is None else device.type == DEVICE.type
        if leaves_device and isinstance(target, PretendedTensor) and _same(target.inner, source.inner):
            return target
        if leaves_device and reaches:
            self._ledger.count.add_kernel(name)
        elif reaches:
            self._ledger.copy(source, non_blocking=bool(given.get("non_blocking")) or True in args[2:])
        else:
            self._ledger.read()
        if target is not None and self._is_late(name, leaves):
            target.inner.fill_(255)  # bytes of which no type makes a number: new memory may hold what is to come
            self._ledger.current.add(partial(func, *args, **given))
            return target
        out = func(*args, **given)
        if target is not None:
            return target
        return PretendedTensor(out) if reaches else out

    def _is_late(self, name: str, leaves: list[Any]) -> bool:
        """Whether an operator is a copy beside the default stream's work, for which the host does not wait."""
        if name != "copy_" or self._ledger.current is self._ledger.default:
            return False
        target, source = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        to_device = isinstance(target, PretendedTensor) and not isinstance(source, PretendedTensor)
        return to_device and True in leaves[2:] and self._ledger.is_pinned(source)


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether they are the same elements of the same memory."""
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.stride() == other.stride()


def _unwrapped(leaf: Any) -> Any:
    if isinstance(leaf, PretendedTensor):
        return leaf.inner
    return torch.device("cpu") if isinstance(leaf, torch.device) else leaf


def _numbered(leaf: Any) -> Any:
    """`cuda` is the first one: torch would ask CUDA's own code."""
    return DEVICE if isinstance(leaf, torch.device) and leaf.type == DEVICE.type else leaf


def _refuse_mixed_devices(name: str, leaves: Sequence[Any]) -> None:
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    elsewhere = [tensor for tensor in tensors if not isinstance(tensor, PretendedTensor) and tensor.dim() > 0]
    if elsewhere and len(elsewhere) < len(tensors):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but {name} got one of shape {tuple(elsewhere[0].shape)} "
            f"on the CPU beside others on {DEVICE}, at {calling_line()}"
        )


@contextmanager
def pretended_device() -> Iterator[Count]:
    """Within it the device is there, under the name `cuda`: what is loaded and bound there stands on it.

    It stays there, and is of no use outside of `pretended_device`.
    """
    ledger = _LEDGER
    ledger.count = Count()
    with (
        mock.patch("torch.cuda.is_available", return_value=True),
        mock.patch("torch.cuda._lazy_init"),
        mock.patch("torch.cuda.get_device_capability", return_value=(7, 0)),  # what needs a newer one is not there
        mock.patch.dict(BACKENDS, {"reference": BACKENDS["reference"]}, clear=True),  # programs need a real device
        mock.patch("torch.cuda.Event", partial(_Event, ledger)),
        mock.patch("torch.cuda.Stream", partial(_Stream, ledger)),
        mock.patch("torch.cuda.stream", ledger.within),
        mock.patch.object(Tensor, "record_stream", ledger.record_stream, create=True),
        mock.patch("torch.cuda.current_stream", ledger.current_stream),
        mock.patch("torch.cuda.default_stream", return_value=ledger.default),
        mock.patch("torch.__future__.get_overwrite_module_params_on_conversion", return_value=True),
        torch.inference_mode(),
        _Operators(ledger),
        _Functions(ledger),
    ):
        yield ledger.count


def host_values(tensor: Tensor) -> Tensor:
    """A tensor's values on the CPU, uncounted."""
    return tensor.inner if isinstance(tensor, PretendedTensor) else tensor
