"""Takes tensors by the names that PEFT gives them."""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import Tensor

from manyhats.errors import InvalidRequest
from manyhats.formats.files import Remaining
from manyhats.formats.peft.names import WRAPPER

Sites = dict[str, dict[str, Tensor]]


def take(
    remaining: Remaining, pattern: str, site_of: Callable[[str], str], leaf_of: Callable[[re.Match[str]], str]
) -> tuple[Sites, dict[str, str]]:
    """All tensors whose name without the wrapper matches `pattern`; its first group is the module.

    Returns the leaves by site, and each site's module as the file has it. Raises what `site_of` raises, and
    InvalidRequest where two tensors have one place.
    """
    sites: Sites = {}
    modules: dict[str, str] = {}
    for name in remaining.names():
        match = re.fullmatch(pattern, name.removeprefix(WRAPPER))
        if match is None:
            continue
        site, leaf = site_of(match[1]), leaf_of(match)
        tensor = remaining.take(name)
        assert tensor is not None
        leaves = sites.setdefault(site, {})
        if leaf in leaves:
            raise InvalidRequest(f"two tensors are the {leaf} of '{site}'", param=name)
        leaves[leaf] = tensor
        modules[site] = match[1]
    return sites, modules


def merge(into: Sites, more: Sites) -> None:
    """Adds leaves, by site."""
    for site, leaves in more.items():
        into.setdefault(site, {}).update(leaves)
