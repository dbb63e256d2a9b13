"""`manyhats-mask/1`: a mask as bits, or as the indices of its zeros."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.methods.component import Component
from manyhats.methods.libraries.native import NativeFields, NativeFiles, NativeFormat
from manyhats.methods.libraries.native_files import FILE, WEIGHTS
from manyhats.methods.libraries.unclaimed import SiteTensors, UnclaimedTensors
from manyhats.methods.libraries.wrappers import bare
from manyhats.methods.mask.config import NAME, MaskConfig, pack_bits
from manyhats.methods.sites import linear_site

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class MaskFields(NativeFields):
    """`shapes`: (out, in) of every masked weight, by site. `encoding`: as bits, or the indices of the zeros."""

    shapes: dict[str, tuple[int, int]] = Field(default_factory=dict)
    bit_order: Literal["little"] = "little"
    keep_is_one: Literal[True] = True
    zeros_fraction: float | None = None
    encoding: Literal["bits", "zeros_idx32"] = "bits"


def _read(unclaimed: UnclaimedTensors, fields: MaskFields, backbone: Backbone) -> Component[MaskConfig]:
    """Claims `<site>.mask`: bits; or with the encoding `zeros_idx32` `<site>.zeros_indices`."""
    sites: SiteTensors = {}
    shapes = {bare(site): shape for site, shape in fields.shapes.items()}
    if len(shapes) != len(fields.shapes):
        raise InvalidRequest(f"{FILE} names one site twice in 'shapes'", param="shapes")
    if fields.encoding == "zeros_idx32":
        for name in unclaimed.names():
            site, found, _ = name.partition(".zeros_indices")
            shape = shapes.get(site)
            if not found or shape is None:
                continue
            if shape != linear_site(backbone, site).shape:  # before the bits are allocated
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
    _check_same(sites, shapes)
    return Component(NAME, MaskConfig(shapes=shapes), sites)


def _check_same(found: Iterable[str], stated: Iterable[str]) -> None:
    """Raises InvalidRequest where the two files name different sites."""
    unexpected = set(found) ^ set(stated)
    if unexpected:
        raise InvalidRequest(
            f"{FILE} and {WEIGHTS} do not mask the same weights: {min(unexpected)}", param=min(unexpected)
        )


def _bits(zeros: Tensor, shape: tuple[int, int], name: str) -> Tensor:
    """The mask with zeros at these indices. Raises InvalidRequest for indices outside the shape."""
    count = shape[0] * shape[1]
    if shape[0] < 1 or shape[1] < 1 or count > 1 << 31 or zeros.dim() != 1 or zeros.is_floating_point():
        raise InvalidRequest(f"'{name}' must be whole numbers below {count}", param=name)
    if len(zeros) and (int(zeros.min()) < 0 or int(zeros.max()) >= count):
        raise InvalidRequest(f"'{name}' has an index outside of 0 to {count - 1}", param=name)
    keep = np.ones(count, dtype=np.bool_)
    keep[zeros.numpy()] = False
    return pack_bits(torch.from_numpy(keep))


def _write(component: Component[Any]) -> NativeFiles | None:
    config = component.config
    if (
        not isinstance(config, MaskConfig)
        or component.label not in (None, NAME)
        or set(config.shapes) != set(component.tensors)
    ):
        return None
    weights = sum(out * width for out, width in config.shapes.values())
    kept = sum(_ones(leaves["mask"]) for leaves in component.tensors.values())
    fields = MaskFields(
        shapes=config.shapes, bit_order="little", keep_is_one=True, zeros_fraction=round(1 - kept / weights, 6)
    )
    return NativeFiles(fields, {f"{site}.mask": leaves["mask"] for site, leaves in component.tensors.items()})


def _ones(packed: Tensor) -> int:
    """The number of bits that are set."""
    return sum(int(((packed >> bit) & 1).sum()) for bit in range(8))


NATIVE = NativeFormat("manyhats-mask/1", MaskFields, _read, _write)
