"""AdapterHub's prefix-tuning."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import functional as F

from manyhats.errors import AdapterMismatch
from manyhats.kernels.activations import activation
from manyhats.messages import short_repr
from manyhats.methods.component import Component
from manyhats.methods.libraries.adapterhub import AdapterHubArchitecture, AdapterHubFile
from manyhats.methods.libraries.fields import flag, reject_fields
from manyhats.methods.libraries.unclaimed import UnclaimedTensors
from manyhats.methods.prefix.config import NAME, PrefixConfig, layer_site

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

_ARCHITECTURE = "prefix_tuning"
# Fields that are read elsewhere, or change nothing.
_IGNORED = {
    "architecture", "bottleneck_size", "cross_prefix", "encoder_prefix", "dropout", "flat", "init_weights_seed",
    "leave_out", "non_linearity", "prefix_length", "shared_gating", "use_gating",
}  # fmt: skip


def _read(
    unclaimed: UnclaimedTensors, config: Mapping[str, Any], file: AdapterHubFile, backbone: Backbone
) -> list[Component[Any]]:
    """Claims the tensors of a prefix: flat, or with its reparametrisation, which is evaluated once."""
    reject_fields(config, _IGNORED)
    # Every layer's module has a copy of the same tensors.
    copies = re.compile(rf"\.prefix_tuning\.pool\.prefix_tunings\.{re.escape(file.name)}\.")
    for key in unclaimed.names():
        if copies.search(key):
            unclaimed.ignore(key)
    own = re.compile(rf"(?:.+\.)?prefix_tuning\.prefix_tunings\.{re.escape(file.name)}\.self(?:_prefix)?\.(.+)")
    leaves: dict[str, Tensor] = {}
    for key in unclaimed.names():
        found = own.fullmatch(key)
        if found:
            leaves[found[1]] = unclaimed.claim(key)
    flat = _flat(leaves, config)
    heads, dim = backbone.kv_shape
    left_out = _left_out(config, backbone)
    layers = [layer for layer in range(backbone.layers) if layer not in left_out]
    row = 2 * len(layers) * heads * dim
    if flat.numel() == 0 or flat.numel() % row:
        raise AdapterMismatch(
            f"the prefix has {flat.numel()} values, which are no rows of {row} "
            f"(2 x {len(layers)} layers x {heads} heads x {dim})",
            param="prefix_length",
        )
    rows = flat.view(-1, 2 * len(layers), heads, dim)
    declared = config.get("prefix_length")
    if declared is not None and declared != rows.shape[0]:
        raise AdapterMismatch(
            f"prefix_length is {short_repr(declared)}, but the tensors make {rows.shape[0]} rows", param="prefix_length"
        )
    tensors = {
        layer_site(layer): {"keys": rows[:, 2 * i], "values": rows[:, 2 * i + 1]} for i, layer in enumerate(layers)
    }
    _claim_gates(unclaimed, config, file.name, backbone, tensors)
    own_config = PrefixConfig(length=rows.shape[0], shift_positions=False, left_out=left_out)
    return [Component(NAME, own_config, tensors)]


def _left_out(config: Mapping[str, Any], backbone: Backbone) -> list[int]:
    """The layers without a prefix; indices without a layer are ignored, as in the library."""
    declared = config.get("leave_out") or []
    if not isinstance(declared, list) or any(type(layer) is not int for layer in declared):
        raise AdapterMismatch(f"leave_out is {short_repr(declared)}, not a list of layers' numbers", param="leave_out")
    left_out = sorted(set(declared) & set(range(backbone.layers)))
    if len(left_out) == backbone.layers:
        raise AdapterMismatch(f"leave_out leaves none of the {backbone.layers} layers", param="leave_out")
    return left_out


def _flat(leaves: Mapping[str, Tensor], config: Mapping[str, Any]) -> Tensor:
    """All values, (length, 2 x layers, heads, dim). Follows the tensors, not the config's `flat`."""
    if "control_trans" in leaves and len(leaves) == 1:
        return leaves["control_trans"].flatten()
    needed = ["wte.weight", *(f"control_trans.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias"))]
    if sorted(leaves) != sorted(needed):
        found = ", ".join(sorted(leaves)) or "none"
        raise AdapterMismatch(f"the prefix' tensors are {found}; needed are {', '.join(needed)}", param="prefix_tuning")
    table, w0, b0, w2, b2 = (leaves[leaf].float() for leaf in needed)
    act = activation(str(config.get("non_linearity", "tanh")))
    try:
        return F.linear(act(F.linear(table, w0, b0)), w2, b2).flatten()
    except RuntimeError as error:
        raise AdapterMismatch(f"the prefix' tensors do not fit each other: {error}", param="prefix_tuning") from None


def _claim_gates(
    unclaimed: UnclaimedTensors,
    config: Mapping[str, Any],
    name: str,
    backbone: Backbone,
    tensors: dict[str, dict[str, Tensor]],
) -> None:
    attention = re.escape(backbone.family.block).replace(r"\{i\}", r"(\d+)")
    gate = re.compile(
        rf"{attention}\.{re.escape(backbone.family.attention)}\.prefix_tuning\.prefix_gates\.{re.escape(name)}\.(weight|bias)"
    )
    found = False
    for key in unclaimed.names():
        match = gate.fullmatch(backbone.bare_name(key))
        if match and layer_site(int(match[1])) in tensors:
            tensors[layer_site(int(match[1]))][f"gate.{match[2]}"] = unclaimed.claim(key)
            found = True
    if found != flag(config, "use_gating"):
        raise AdapterMismatch("use_gating and the tensors 'prefix_gates' do not agree", param="use_gating")


ADAPTERHUB = AdapterHubArchitecture(_ARCHITECTURE, lambda config: config.get("architecture") == _ARCHITECTURE, _read)
