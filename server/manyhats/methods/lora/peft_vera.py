"""How PEFT's files store VeRA, which is read as a low-rank pair at each layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from manyhats.errors import AdapterMismatch
from manyhats.methods.component import Component
from manyhats.methods.libraries.fields import validate
from manyhats.methods.libraries.peft import PROMPT_WRAPPER, FieldType, PeftType, claim, linear_in
from manyhats.methods.libraries.peft_fields import ANY, FLAG, INTEGER, NUMBER
from manyhats.methods.libraries.unclaimed import UnclaimedTensors
from manyhats.methods.lora.config import NAME, LoraConfig
from manyhats.methods.lora.peft import check_fields, claim_own_biases
from manyhats.methods.lora.vera import SharedMatrices, make_matrices, materialise

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

_MAX_VALUES = 1 << 30  # of all matrices that the short vectors of a VeRA file expand to
_MATRICES = ("vera_A", "vera_B")
_VERA_FIELDS: Mapping[str, FieldType] = {
    "r": INTEGER,
    "projection_prng_key": INTEGER,
    "save_projection": FLAG,
    "vera_dropout": NUMBER,
    "d_initial": NUMBER,
    "bias": ANY,
}


def _read_vera(unclaimed: UnclaimedTensors, config: Mapping[str, Any], backbone: Backbone) -> list[Component[Any]]:
    """diag(b) B diag(d) A with A and B shared by all layers (Kopiczko et al. 2024, equation 2)."""
    sites, _ = claim(unclaimed, r"(.+)\.vera_lambda_(b|d)", linear_in(backbone))
    if not sites:
        raise AdapterMismatch("the file has no vera_lambda_b and vera_lambda_d")
    shapes = [backbone.linear[site].shape for site in sites]
    max_out, max_in = max(s[0] for s in shapes), max(s[1] for s in shapes)
    down, up = unclaimed.claim_optional(PROMPT_WRAPPER + "vera_A"), unclaimed.claim_optional(PROMPT_WRAPPER + "vera_B")
    if down is None or up is None:
        down, up = _made_matrices(config, max_out, max_in)
    rank = down.shape[0] if down.dim() == 2 else 0
    if not rank or down.shape[1] < max_in or up.dim() != 2 or up.shape[1] != rank or up.shape[0] < max_out:
        raise AdapterMismatch(
            f"vera_A {list(down.shape)} and vera_B {list(up.shape)} do not fit layers of up to {max_in} inputs and "
            f"{max_out} outputs",
            param="vera_A",
        )
    values = sum(rank * (out + width) for out, width in shapes)
    if values > _MAX_VALUES:
        raise AdapterMismatch(
            f"VeRA's matrices of all {len(sites)} layers would have {values} values; at most {_MAX_VALUES}", param="r"
        )
    for site, leaves in sites.items():
        out, width = backbone.linear[site].shape
        for leaf, length in (("b", out), ("d", rank)):
            if leaf not in leaves or tuple(leaves[leaf].shape) != (length,):
                found = list(leaves[leaf].shape) if leaf in leaves else "missing"
                raise AdapterMismatch(f"vera_lambda_{leaf} of '{site}' is {found}, but must be [{length}]", param=site)
        leaves |= materialise(leaves.pop("b").float(), leaves.pop("d").float(), down.float(), up.float(), width)
    claim_own_biases(unclaimed, sites, backbone)
    return [Component(NAME, LoraConfig(scales=dict.fromkeys(sites, 1.0)), sites, label="vera")]


def _made_matrices(config: Mapping[str, Any], out: int, width: int) -> tuple[Tensor, Tensor]:
    """The shared matrices as PEFT generates them from the key, for files without them."""
    fields = {"rank": config.get("r", 256), "key": config.get("projection_prng_key", 0)}
    return make_matrices(
        validate(SharedMatrices, fields | {"outputs": out, "inputs": width}, "adapter_config.json", "r")
    )


VERA = PeftType(
    "VERA",
    _read_vera,
    _VERA_FIELDS,
    leaves=("vera_lambda_b", "vera_lambda_d", *_MATRICES),
    shared=_MATRICES,
    check=check_fields,
)
