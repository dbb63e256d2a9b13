"""How PEFT's files name a method: what a method says of its `peft_type`s, and the names that all of them share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

from torch import Tensor

from manyhats.methods.component import C, Component
from manyhats.methods.libraries.unclaimed import SiteTensors, UnclaimedTensors, claim_leaves
from manyhats.methods.sites import linear_site

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

WRAPPER = "base_model.model."
PROMPT_WRAPPER = "base_model."  # prompt learning wraps the model otherwise
PROMPT_EMBEDDINGS = "prompt_embeddings"  # the one tensor of prompt learning, in no wrapper

FullName = Callable[[str], str]  # a site's whole name in the model that was trained


class FieldType(NamedTuple):
    """What a field of `adapter_config.json` may be. `description`: the same in words, for a message."""

    fits: Callable[[Any], bool]
    description: str


@dataclass(frozen=True, slots=True)
class PeftType:
    """One `peft_type` of PEFT's files.

    `fields`: those of `adapter_config.json` that it understands beside the fields of all types. `unsupported`: further
    ones that PEFT has for it, which are refused where they are set. `check` raises AdapterMismatch for a value of its
    fields that cannot be followed; it is called before any tensor is read.

    `leaves`: the last parts of tensors' names behind which PEFT keeps the adapter's own name. `shared`: the names of
    tensors that all layers share, which stand outside of the wrapped model. `prompt`: prompt learning, which wraps the
    model otherwise.

    `read` claims its tensors and makes components of them, in the order in which they act. It raises InvalidRequest for
    damaged files and AdapterMismatch for what does not fit the backbone.
    """

    name: str
    read: Callable[[UnclaimedTensors, Mapping[str, Any], Backbone], list[Component[Any]]]
    fields: Mapping[str, FieldType]
    leaves: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    prompt: bool = False
    unsupported: Mapping[str, FieldType] = field(default_factory=dict)
    check: Callable[[Mapping[str, Any]], None] | None = None


class PeftFiles(NamedTuple):
    """What PEFT stores of a component: fields of `adapter_config.json`, and tensors by their names."""

    fields: dict[str, Any]
    tensors: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class PeftWriter(Generic[C]):
    """Writes a method's components as PEFT does. `holds`: whether PEFT's files have a place for all that is in one.

    `write` raises InvalidRequest for what PEFT has no place for.
    """

    holds: Callable[[Component[C], Backbone], bool]
    write: Callable[[Component[C], FullName, Backbone], PeftFiles]
    prompt: bool = False


def claim(
    unclaimed: UnclaimedTensors, pattern: str, site_of: Callable[[str], str], leaf: str | None = None
) -> tuple[SiteTensors, dict[str, str]]:
    """All tensors whose name without the wrapper matches `pattern`: its first group is the module, its second the
    leaf, where `leaf` does not name that.

    Returns the leaves by site, and each site's module as the file has it. Raises what `site_of` raises, and
    InvalidRequest where two tensors have one place.
    """
    modules: dict[str, str] = {}

    def place_of(name: str) -> tuple[str, str] | None:
        match = re.fullmatch(pattern, name.removeprefix(WRAPPER))
        if match is None:
            return None
        site = site_of(match[1])
        modules[site] = match[1]
        return site, match[2] if leaf is None else leaf

    return claim_leaves(unclaimed, place_of), modules


def linear_in(backbone: Backbone) -> Callable[[str], str]:
    """For `claim`: the linear site of a module. Raises AdapterMismatch where there is none."""
    return lambda module: linear_site(backbone, module).name


def merge(into: SiteTensors, more: SiteTensors) -> None:
    """Adds leaves, by site."""
    for site, leaves in more.items():
        into.setdefault(site, {}).update(leaves)
