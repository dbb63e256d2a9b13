"""Arenas: one allocation for all tensors of a bound adapter.

Allocated one by one, the tensors of an adapter take a third more than their bytes, and those that are a file's as they
were read keep what the file was read into.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from functools import cache
from operator import is_not
from typing import Any, TypeVar

import torch
from torch import Tensor

from manyhats import own_pages

T = TypeVar("T")

_PLAIN = {type(None), str, int, float, bool}
ALIGNMENT = 64  # bytes: a line of the cache, and the widest vector


class Packing:
    """Where tensors stand in one allocation of `nbytes` bytes, each at a multiple of `ALIGNMENT`.

    `arena`: the one in host memory in which they stand so already.
    """

    def __init__(self, tensors: Sequence[Tensor], arena: Tensor | None = None) -> None:
        self.tensors = tensors
        self._arena = arena
        self._sizes = [-(-tensor.nbytes // ALIGNMENT) * ALIGNMENT for tensor in tensors]
        self.nbytes = sum(self._sizes)

    def views(self, arena: Tensor) -> list[Tensor]:
        """The tensors' places in an arena (nbytes,) uint8, in their types, shapes and orders of dimensions."""
        typed: dict[torch.dtype, Tensor] = {}
        found: list[Tensor] = []
        start = 0
        for tensor, size in zip(self.tensors, self._sizes, strict=True):
            dtype = tensor.dtype
            if dtype not in typed:
                typed[dtype] = arena.view(dtype)
            strides = tensor.stride() if tensor.is_contiguous() else torch.empty_like(tensor, device="meta").stride()
            found.append(typed[dtype].as_strided(tensor.shape, strides, start // dtype.itemsize))
            start += size
        return found

    def filled(self, arena: Tensor) -> list[Tensor]:
        """The same, with the tensors' values."""
        views = self.views(arena)
        if self._arena is not None:
            arena.copy_(self._arena)
            return views
        for view, tensor in zip(views, self.tensors, strict=True):
            view.copy_(tensor)
        return views


def in_arena(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors in host memory as views of one new allocation there."""
    packing = Packing(tensors)
    return packing.filled(own_pages.empty(packing.nbytes))


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in a value, each once.

    Looks into dicts, lists, tuples and frozen dataclasses. The tensors of other objects, which may change or be
    shared, are not found.
    """
    return [leaf for leaf in _leaves(value) if isinstance(leaf, Tensor)]


def hiding(value: Any) -> type | None:
    """A type in the value whose objects hold a tensor that `tensors_in` does not find; None where there is none."""
    for leaf in _leaves(value):
        if not isinstance(leaf, Tensor):
            names = [*getattr(leaf, "__dict__", ()), *getattr(type(leaf), "__slots__", ())]
            if any(isinstance(getattr(leaf, name, None), Tensor) for name in names):
                return type(leaf)
    return None


def with_tensors(value: T, old: Sequence[Tensor], new: Sequence[Tensor]) -> T:
    """The value with other tensors in the places of some that `tensors_in` finds. The value itself is not changed."""
    rebuilt: T = _rebuilt(value, dict(zip(map(id, old), new, strict=True)))
    return rebuilt


def _leaves(value: Any) -> list[Any]:
    """What a value consists of that is not plain and has no parts, each once."""
    found: dict[int, Any] = {}
    _collect(value, found, set())
    return list(found.values())


def _collect(value: Any, found: dict[int, Any], seen: set[int]) -> None:
    """Adds the leaves in a value to `found`, by their `id`. `seen`: the ids of what has been looked into."""
    if isinstance(value, Tensor):
        found[id(value)] = value
    elif id(value) not in seen:
        seen.add(id(value))
        parts = _parts(value)
        if parts is None:
            found[id(value)] = value
            return
        for part in parts:
            if type(part) not in _PLAIN:
                _collect(part, found, seen)


def _parts(value: Any) -> Iterable[Any] | None:
    if isinstance(value, (tuple, list)):
        return value
    if isinstance(value, dict):
        return value.values()
    kind: Any = type(value)
    names = _fields(kind)
    return [getattr(value, name) for name in names] if names else None


def _rebuilt(value: Any, done: dict[int, Any]) -> Any:
    """A copy of a value with other tensors; itself where nothing in it is another. `done`: what there is already of
    what, by `id`."""
    kind: Any = type(value)
    if kind in _PLAIN:
        return value
    known = done.get(id(value))
    if known is not None:
        return known
    new = value
    if isinstance(value, (tuple, list)):
        items = [item if type(item) in _PLAIN else _rebuilt(item, done) for item in value]
        if any(map(is_not, items, value)):
            new = value._make(items) if hasattr(value, "_make") else kind(items)
    elif isinstance(value, dict):
        rebuilt = {key: _rebuilt(item, done) for key, item in value.items()}
        if any(map(is_not, rebuilt.values(), value.values())):
            new = rebuilt
    elif names := _fields(kind):
        own = [getattr(value, name) for name in names]
        items = [item if type(item) in _PLAIN else _rebuilt(item, done) for item in own]
        if any(map(is_not, items, own)):
            new = object.__new__(kind)  # what it computed of the other tensors and kept is left behind
            for name, item in zip(names, items, strict=True):
                object.__setattr__(new, name, item)
    done[id(value)] = new
    return new


@cache
def _fields(kind: Any) -> tuple[str, ...]:
    """The fields of a frozen dataclass; none of any other type."""
    parameters = getattr(kind, "__dataclass_params__", None)
    return () if parameters is None or not parameters.frozen else tuple(field.name for field in fields(kind))
