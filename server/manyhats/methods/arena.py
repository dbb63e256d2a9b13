"""Arenas: one allocation for all tensors of a bound adapter.

Allocated one by one, the tensors of an adapter take a third more than their bytes, and those that are a file's as they
were read keep what the file was read into.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

ALIGNMENT = 64  # bytes: a line of the cache, and the widest vector


def in_arena(value: T, keep: Callable[[Tensor], bool]) -> T:
    """The value with its tensors as views of one new allocation; `keep` is asked which tensors stay where they are.

    Looks into mappings, sequences, named tuples and frozen dataclasses. The tensors of other objects, which may change
    or be shared, stay where they are too. The value itself is not changed. All tensors must be in host memory.
    """
    found: dict[int, Tensor] = {}
    _rebuilt(value, lambda tensor: found.setdefault(id(tensor), tensor), {})
    # An expanded tensor has fewer bytes than values.
    moved = {key: t for key, t in found.items() if 0 < t.nbytes <= t.untyped_storage().nbytes() and not keep(t)}
    if not moved:
        return value
    offsets: dict[int, int] = {}
    end = 0
    for key, tensor in moved.items():
        offsets[key] = end
        end += math.ceil(tensor.nbytes / ALIGNMENT) * ALIGNMENT
    arena = torch.empty(end, dtype=torch.uint8)
    typed: dict[torch.dtype, Tensor] = {}
    views: dict[int, Tensor] = {}
    for key, tensor in moved.items():
        dtype = tensor.dtype
        if dtype not in typed:
            typed[dtype] = arena.view(dtype)
        strides = tensor.stride() if tensor.is_contiguous() else torch.empty_like(tensor, device="meta").stride()
        views[key] = typed[dtype].as_strided(tensor.shape, strides, offsets[key] // dtype.itemsize)
        views[key].copy_(tensor)
    rebuilt: T = _rebuilt(value, lambda tensor: views.get(id(tensor), tensor), {})
    return rebuilt


def _rebuilt(value: Any, change: Callable[[Tensor], Tensor], seen: dict[int, Any]) -> Any:
    """A copy of a value with changed tensors; itself where nothing in it has changed. `seen`: results by `id`."""
    if isinstance(value, Tensor):
        return change(value)
    if value is None or isinstance(value, (str, int, float, type)):
        return value
    if id(value) in seen:
        return seen[id(value)]
    new = value
    if isinstance(value, Mapping):
        changed = {key: _rebuilt(item, change, seen) for key, item in value.items()}
        if any(changed[key] is not item for key, item in value.items()):
            new = changed
    elif isinstance(value, (tuple, list)):
        items = [_rebuilt(item, change, seen) for item in value]
        if any(one is not other for one, other in zip(items, value, strict=True)):
            new = type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    elif is_dataclass(value) and value.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        own = {field.name: getattr(value, field.name) for field in fields(value)}
        changed = {name: _rebuilt(item, change, seen) for name, item in own.items()}
        if any(changed[name] is not item for name, item in own.items()):
            new = copy.copy(value)
            for name, item in changed.items():
                object.__setattr__(new, name, item)
    seen[id(value)] = new
    return new
