"""The linear layers that an adapter acts on, by their names in a model family (target modules)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from manyhats.errors import InvalidRequest

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


def target_sites(backbone: Backbone, targets: Sequence[str]) -> list[str]:
    """The linear sites inside the blocks that match `targets`: `all-linear`, or the last names of module paths.

    Raises InvalidRequest where a target matches no layer.
    """
    root = backbone.family.block.split("{i}")[0]
    inside = [name for name in backbone.linear if name.startswith(root)]
    if list(targets) == ["all-linear"]:
        return inside
    matched = [name for name in inside if any(name == t or name.endswith("." + t) for t in targets)]
    for target in targets:
        if not any(name == target or name.endswith("." + target) for name in matched):
            raise InvalidRequest(f"no linear layer is called '{target}'", param="targets")
    return matched
