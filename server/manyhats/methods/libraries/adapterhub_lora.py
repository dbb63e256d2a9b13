"""Shared by AdapterHub's LoRA, DoRA and IA3, whose architecture is always `lora`; they differ in `composition_mode`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.messages import short_repr
from manyhats.methods.libraries.fields import reject_fields
from manyhats.methods.libraries.unclaimed import SiteTensors, UnclaimedTensors, claim_leaves
from manyhats.methods.sites import linear_site

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

ARCHITECTURE = "lora"
MODE = "composition_mode"

_FIELDS = {
    "architecture", "attn_matrices", "dropout", "dtype", "init_weights", "init_weights_seed", "intermediate_lora",
    "leave_out", "output_lora", "selfattn_lora", "alpha", "r", "composition_mode", "use_dora", "use_gating",
}  # fmt: skip
_MATRICES = ("q", "k", "v")  # in the order in which GPT-2's fused layer has them
_LEAVES = {
    "lora_A": "A",
    "lora_B": "B",
    "m.weight": "magnitude",
    "gate.weight": "gate.weight",
    "gate.bias": "gate.bias",
}


def claim_lora(unclaimed: UnclaimedTensors, config: Mapping[str, Any], name: str, backbone: Backbone) -> SiteTensors:
    """All tensors of the adapter called `name`, by linear site: `A`, `B`, `magnitude`, `gate.weight`, `gate.bias`.

    Raises AdapterMismatch where there are none, for a tensor without a site, and for a field that is not understood.
    """
    reject_fields(config, _FIELDS)

    def place_of(tensor: str) -> tuple[str, str] | None:
        module, found, leaf = tensor.partition(f".loras.{name}.")
        return (linear_site(backbone, module).name, _LEAVES[leaf]) if found and leaf in _LEAVES else None

    sites = claim_leaves(unclaimed, place_of)
    if not sites:
        raise AdapterMismatch(f"the file has no weights of a LoRA called '{name}'", param="name")
    return sites


def adapted_thirds(matrices: Any) -> list[int]:
    """Which thirds of a fused layer's output are adapted, by the field `attn_matrices`. Raises InvalidRequest."""
    if not isinstance(matrices, list) or not matrices or any(matrix not in _MATRICES for matrix in matrices):
        raise InvalidRequest(
            f"attn_matrices must be a list of q, k and v, not {short_repr(matrices)}", param="attn_matrices"
        )
    return [i for i, matrix in enumerate(_MATRICES) if matrix in matrices]


def is_fused(rows: int, out: int, site: str) -> bool:
    """Whether a vector or matrix of so many rows is for GPT-2's fused attention layer, of which parts are adapted."""
    return site.endswith("attn.c_attn") and rows <= out
