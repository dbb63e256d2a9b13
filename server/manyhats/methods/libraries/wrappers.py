"""Removes what wrappers of a model (torch.compile, DDP, FSDP, ...) add to the names of tensors."""

from __future__ import annotations

import re

# Each is a library's wrapper module; no model has a module of that name.
_AROUND = (
    "_orig_mod",  # torch.compile
    "_fsdp_wrapped_module",  # torch's FSDP
    "_fpw_module",  # the same, before torch 2.0
    "_checkpoint_wrapped_module",  # torch's activation checkpointing
    "_forward_module",  # Lightning's Fabric
)
_INSIDE = re.compile(rf"(?<![^.:])(?:{'|'.join(_AROUND)})\.")
_PARALLEL = "module."  # DistributedDataParallel and DeepSpeed, around the whole model


def bare(name: str) -> str:
    """A tensor's name without wrappers: `_orig_mod.` and its like anywhere, `module.` where it begins."""
    name = _INSIDE.sub("", name)
    while name.startswith(_PARALLEL):
        name = name.removeprefix(_PARALLEL)
    return name
