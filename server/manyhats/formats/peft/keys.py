"""Takes tensors by the names that PEFT gives them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from manyhats.formats.files import Sites, UnclaimedTensors, take_leaves
from manyhats.formats.peft.names import WRAPPER
from manyhats.methods.sites import linear_site

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


def take(
    remaining: UnclaimedTensors, pattern: str, site_of: Callable[[str], str], leaf: str | None = None
) -> tuple[Sites, dict[str, str]]:
    """All tensors whose name without the wrapper matches `pattern`: its first group is the module, its second the
    leaf, where `leaf` does not name that.

    Returns the leaves by site, and each site's module as the file has it. Raises what `site_of` raises, and
    InvalidRequest where two tensors have one place.
    """
    modules: dict[str, str] = {}

    def place(name: str) -> tuple[str, str] | None:
        match = re.fullmatch(pattern, name.removeprefix(WRAPPER))
        if match is None:
            return None
        site = site_of(match[1])
        modules[site] = match[1]
        return site, match[2] if leaf is None else leaf

    return take_leaves(remaining, place), modules


def linear_in(backbone: Backbone) -> Callable[[str], str]:
    """For `take`: the linear site of a module. Raises AdapterMismatch where there is none."""
    return lambda module: linear_site(backbone, module).name


def merge(into: Sites, more: Sites) -> None:
    """Adds leaves, by site."""
    for site, leaves in more.items():
        into.setdefault(site, {}).update(leaves)
