"""Arenas: one allocation for all tensors of a bound adapter.

Allocated one by one, the tensors of an adapter take a third more than their bytes, and those that are a file's as they
were read keep what the file was read into.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import cache
from operator import is_not
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

_PLAIN = {type(None), str, int, float, bool}
ALIGNMENT = 64  # bytes: a line of the cache, and the widest vector


def in_arena(value: T, keep: Callable[[Tensor], bool]) -> T:
    """The value with its tensors as views of one new allocation; `keep` is asked which tensors stay where they are.

    Looks into dicts, lists, tuples and frozen dataclasses. The tensors of other objects, which may change
    or be shared, stay where they are too. The value itself is not changed. All tensors must be in host memory.
    """
    found: dict[int, Tensor] = {}
    _collect(value, found, set())
    # An expanded tensor has fewer bytes than values.
    moved = {key: t for key, t in found.items() if 0 < t.nbytes <= t.untyped_storage().nbytes() and not keep(t)}
    sizes = [-(-tensor.nbytes // ALIGNMENT) * ALIGNMENT for tensor in moved.values()]
    arena = torch.empty(sum(sizes), dtype=torch.uint8)
    typed: dict[torch.dtype, Tensor] = {}
    views: dict[int, Any] = {}
    start = 0
    for (key, tensor), size in zip(moved.items(), sizes, strict=True):
        dtype = tensor.dtype
        if dtype not in typed:
            typed[dtype] = arena.view(dtype)
        strides = tensor.stride() if tensor.is_contiguous() else torch.empty_like(tensor, device="meta").stride()
        views[key] = typed[dtype].as_strided(tensor.shape, strides, start // dtype.itemsize)
        views[key].copy_(tensor)
        start += size
    rebuilt: T = _rebuilt(value, views)
    return rebuilt


def _collect(value: Any, found: dict[int, Tensor], seen: set[int]) -> None:
    """Adds the tensors in a value to `found`, by their `id`. `seen`: the ids of what has been looked into."""
    if isinstance(value, Tensor):
        found[id(value)] = value
    elif id(value) not in seen:
        seen.add(id(value))
        for part in _parts(value):
            if type(part) not in _PLAIN:
                _collect(part, found, seen)


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, (tuple, list)):
        return value
    if isinstance(value, dict):
        return value.values()
    kind: Any = type(value)
    return [getattr(value, name) for name in _fields(kind)]


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
