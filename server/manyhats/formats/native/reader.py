"""Reads an adapter in one of our own formats."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from manyhats.core.adapter import Adapter
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.formats.native.description import Description
from manyhats.formats.native.names import FILE, WEIGHTS
from manyhats.formats.wrappers import bare, open_tensors
from manyhats.methods.component import Component
from manyhats.methods.full_parameters import ParametersConfig
from manyhats.methods.heads import Head, Layer
from manyhats.methods.libraries.fields import validate
from manyhats.methods.libraries.unclaimed import SiteTensors, UnclaimedTensors, claim_leaves
from manyhats.methods.mask import MaskConfig, pack_bits
from manyhats.methods.registry import METHODS
from manyhats.methods.side import SIDE_SITE, SideConfig
from manyhats.methods.sites import linear_site, parameter_site
from manyhats.methods.sparse import SparseConfig

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


def read(folder: Path, description: Description, backbone: Backbone) -> Adapter:
    """Reads an adapter in our own format. Raises InvalidRequest or AdapterMismatch with the reason."""
    unclaimed = open_tensors(folder / WEIGHTS)
    head = read_head(unclaimed, description)
    match description.format:
        case "manyhats-mask/1":
            parts = [_mask(unclaimed, description, backbone)]
        case "manyhats-sparse/1":
            parts = [_sparse(unclaimed, description, backbone)]
        case "manyhats-side/1":
            parts = [_side(unclaimed, description)]
        case _:
            parts = _parts(unclaimed, description)
    unclaimed.check_all_claimed()
    return Adapter(
        components=tuple(parts),
        head=head,
        kind=description.answers if head is None else head.kind,
        matched_tensors=unclaimed.claimed,
        base=description.base_model_name_or_path,
        settings=description.task,
        warnings=unclaimed.warnings,
    )


def read_head(unclaimed: UnclaimedTensors, description: Description) -> Head | None:
    """The head whose tensors are `head.<n>.weight` and `head.<n>.bias`."""
    if description.head is None:
        return None
    layers = []
    for i, activation in enumerate(description.head.activations):
        weight = unclaimed.claim_optional(f"head.{i}.weight")
        if weight is None:
            raise InvalidRequest(f"{WEIGHTS} has no 'head.{i}.weight'", param=f"head.{i}.weight")
        layers.append(Layer(weight, unclaimed.claim_optional(f"head.{i}.bias"), activation))
    return Head(description.head.kind, description.head.reads, tuple(layers))


def _same(found: Iterable[str], stated: Iterable[str]) -> None:
    odd = set(found) ^ set(stated)
    if odd:
        raise InvalidRequest(f"{FILE} and {WEIGHTS} do not mask the same weights: {min(odd)}", param=min(odd))


def _mask(unclaimed: UnclaimedTensors, description: Description, backbone: Backbone) -> Component[Any]:
    """`<site>.mask`: bits; or with the encoding `zeros_idx32` `<site>.zeros_indices`, where the zeros stand."""
    sites: SiteTensors = {}
    shapes = {bare(site): shape for site, shape in description.shapes.items()}
    if len(shapes) != len(description.shapes):
        raise InvalidRequest(f"{FILE} names one site twice in 'shapes'", param="shapes")
    if description.encoding == "zeros_idx32":
        for name in unclaimed.names():
            site, found, _ = name.partition(".zeros_indices")
            shape = shapes.get(site)
            if not found or shape is None:
                continue
            if shape != linear_site(backbone, site).shape:  # before so many bits are made
                raise AdapterMismatch(
                    f"'{name}' is for a weight of shape {list(shape)}, but the backbone {backbone.name} has "
                    f"{list(linear_site(backbone, site).shape)}",
                    param=site,
                )
            sites[site] = {"mask": _bits(unclaimed.claim(name), shape, name)}
    else:
        for name in unclaimed.names():
            if name.endswith(".mask"):
                sites[name.removesuffix(".mask")] = {"mask": unclaimed.claim(name)}
    _same(sites, shapes)
    return Component("mask", MaskConfig(shapes=shapes), sites)


def _bits(zeros: Tensor, shape: tuple[int, int], name: str) -> Tensor:
    count = shape[0] * shape[1]
    if shape[0] < 1 or shape[1] < 1 or count > 1 << 31 or zeros.dim() != 1 or zeros.is_floating_point():
        raise InvalidRequest(f"'{name}' must be whole numbers below {count}", param=name)
    if len(zeros) and (int(zeros.min()) < 0 or int(zeros.max()) >= count):
        raise InvalidRequest(f"'{name}' has an index outside of 0 to {count - 1}", param=name)
    keep = np.ones(count, dtype=np.bool_)
    keep[zeros.numpy()] = False
    return pack_bits(torch.from_numpy(keep))


def _sparse(unclaimed: UnclaimedTensors, description: Description, backbone: Backbone) -> Component[Any]:
    """`<parameter>.indices` and `<parameter>.values`; or with the mode `replace_dense` `<parameter>` as a whole."""
    dense = description.mode == "replace_dense"

    def place(name: str) -> tuple[str, str] | None:
        parameter, _, which = (name, "", "") if dense else name.rpartition(".")
        if not dense and which not in ("indices", "values"):
            return None
        module, _, leaf = parameter.rpartition(".")
        return parameter_site(backbone, module).name, leaf if dense else f"{leaf}.{which}"

    sites = claim_leaves(unclaimed, place)
    if description.mode == "replace_dense":
        return Component("parameters", ParametersConfig(), sites, label="sparse")
    return Component("sparse", SparseConfig(mode=description.mode), sites)


def _side(unclaimed: UnclaimedTensors, description: Description) -> Component[Any]:
    """`alpha`, `side.<parameter>`, and with a projection `projection.weight` and maybe `projection.bias`."""
    leaves: dict[str, Tensor] = {}
    for name in unclaimed.names():
        known = name.startswith("side.") or name == "alpha"
        if known or (description.projection and name in ("projection.weight", "projection.bias")):
            leaves[f"network.{name.removeprefix('side.')}" if name.startswith("side.") else name] = unclaimed.claim(
                name
            )
    if description.projection and "projection.weight" not in leaves:
        raise InvalidRequest(f"{WEIGHTS} has no 'projection.weight'", param="projection")
    fields = {"kind": description.kind, "model": description.side_model_config, "layers": description.layers}
    config = validate(SideConfig, fields, FILE, "side")
    return Component("side", config, {SIDE_SITE: leaves})


def _parts(unclaimed: UnclaimedTensors, description: Description) -> list[Component[Any]]:
    """`<index>:<site>:<leaf>`, in the order in which the parts act."""
    sites: list[SiteTensors] = [{} for _ in description.parts]
    for name in unclaimed.names():
        index, _, rest = name.partition(":")
        site, _, leaf = rest.partition(":")
        if not index.isdecimal() or not 0 <= int(index) < len(sites) or not leaf:
            continue
        sites[int(index)].setdefault(site, {})[leaf] = unclaimed.claim(name)
    parts = []
    for told, own in zip(description.parts, sites, strict=True):
        method = METHODS.get(told.method)
        if method is None:
            raise AdapterMismatch(
                f"the method '{told.method[:80]}' is not known; these are: {', '.join(METHODS)}", param="parts"
            )
        config = validate(method.config, told.config, f"{FILE}: parts", told.method)
        parts.append(Component(told.method, config, own, label=told.label))
    return parts
