"""PEFT's SHIRA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from manyhats.errors import AdapterMismatch
from manyhats.methods.component import Component
from manyhats.methods.libraries.peft import PeftType, claim, linear_in
from manyhats.methods.libraries.peft_fields import INTEGER, TEXT
from manyhats.methods.libraries.unclaimed import SiteTensors, UnclaimedTensors
from manyhats.methods.sparse.config import NAME, SparseConfig

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


def _read(unclaimed: UnclaimedTensors, config: Mapping[str, Any], backbone: Backbone) -> list[Component[Any]]:
    """Sparse differences of linear weights: `shira_indices` (2, n) rows and columns, `shira_weight` (n,)."""
    pairs, _ = claim(unclaimed, r"(.+)\.shira_(weight|indices)", linear_in(backbone))
    if not pairs:
        raise AdapterMismatch("the file has no shira_weight and shira_indices")
    sites: SiteTensors = {}
    for site, leaves in pairs.items():
        indices, values = leaves.get("indices"), leaves.get("weight")
        if indices is None or values is None or tuple(indices.shape) != (2, values.numel()):
            raise AdapterMismatch(f"shira_indices and shira_weight of '{site}' do not belong together", param=site)
        out, width = backbone.linear[site].shape
        rows, columns = indices.long()
        if bool((rows < 0).any() | (rows >= out).any() | (columns < 0).any() | (columns >= width).any()):
            raise AdapterMismatch(f"shira_indices of '{site}' lie outside of [{out}, {width}]", param=site)
        flat, where = torch.unique(rows * width + columns, return_inverse=True)
        summed = torch.zeros(len(flat)).index_add_(0, where, values.flatten().float())
        sites[site] = {"weight.indices": flat, "weight.values": summed}
    return [Component(NAME, SparseConfig(mode="add"), sites, label="shira")]


SHIRA = PeftType(
    "SHIRA",
    _read,
    {"r": INTEGER, "mask_type": TEXT, "random_seed": INTEGER},
    leaves=("shira_weight", "shira_indices"),
)
