"""A fresh head fits every family, whatever the width of its states."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from manyhats.core.kinds.registry import TRAININGS
from manyhats.errors import InvalidRequest
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.methods.grouped_heads import GroupedHeads, HeadRows
from manyhats.methods.slots import slot_tables
from manyhats.training.heads import head_for
from manyhats.training.recipes import recipe_for

from tests import tiny


@pytest.mark.parametrize("family", tiny.ALL_FAMILIES)
@pytest.mark.parametrize("method", ["lora", "bottleneck"])
def test_fits_the_backbone(family: str, method: str, load_backbone: Any) -> None:
    backbone = load_backbone(family)
    if family == "modernbert" and method == "lora":
        with pytest.raises(InvalidRequest, match="the whole head of modernbert"):
            head_for(backbone, recipe_for(method), TRAININGS["classify"], 3, torch.Generator())
        return
    for kind in ("classify", "tokens", "regress"):
        head = head_for(backbone, recipe_for(method), TRAININGS[kind], 3, torch.Generator().manual_seed(0)).saved()
        head.check(backbone)
        width = backbone.hidden if head.reads == "pooler" else backbone.output_width
        ready = BoundAdapter("none", (), head)
        heads = GroupedHeads(slot_tables(backbone), [HeadRows(ready, 0, 2)], backbone.staging(), backbone.device)
        logits = heads(torch.zeros(2, width))
        assert logits.shape == (2, 1 if kind == "regress" else 3)
