"""How PEFT's files store a method: the `peft_type`s that a method declares, and the names that all types share."""

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
PROMPT_WRAPPER = "base_model."  # the wrapper of prompt learning
PROMPT_EMBEDDINGS = "prompt_embeddings"  # the only tensor of prompt learning, outside the wrapper

FullName = Callable[[str], str]  # a site to its full name in the model that was trained


class FieldType(NamedTuple):
    """The type of a field of `adapter_config.json`. `description`: for messages."""

    fits: Callable[[Any], bool]
    description: str


@dataclass(frozen=True, slots=True)
class PeftType:
    """One `peft_type` of PEFT's files.

    `fields`: of `adapter_config.json`, supported in addition to those of all types. `unsupported`: PEFT's further
    fields, which are rejected where they are set. `check` raises AdapterMismatch for a value that is not supported; it
    is called before any tensor is read.

    `leaves`: the parts of tensors' names after which PEFT puts the adapter's name. `shared`: the names of tensors that
    all layers share, outside the wrapped model. `prompt`: whether it is prompt learning, which has another wrapper.

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
    """Writes a method's components as PEFT does. `holds`: whether PEFT's files can store all of one.

    `write` raises InvalidRequest for what PEFT cannot store.
    """

    holds: Callable[[Component[C], Backbone], bool]
    write: Callable[[Component[C], FullName, Backbone], PeftFiles]
    prompt: bool = False


def claim(
    unclaimed: UnclaimedTensors, pattern: str, site_of: Callable[[str], str], leaf: str | None = None
) -> tuple[SiteTensors, dict[str, str]]:
    """Claims all tensors whose name without the wrapper matches `pattern`: its first group is the module, its second
    the tensor's name there, unless `leaf` gives it.

    Returns the tensors by site, and each site's module as in the file. Raises what `site_of` raises, and
    InvalidRequest where two tensors get one name.
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
    """Adds tensors, by site."""
    for site, leaves in more.items():
        into.setdefault(site, {}).update(leaves)
