"""PEFT's LN_TUNING and BEFT, and the backbone's own parameters that it saves with any method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.methods.component import Component
from manyhats.methods.full_parameters.config import BIASES, NAME, NORMS, ParametersConfig
from manyhats.methods.libraries.equal_weights import equal_weights
from manyhats.methods.libraries.peft import (
    PROMPT_WRAPPER,
    WRAPPER,
    FullName,
    PeftFiles,
    PeftType,
    PeftWriter,
    claim,
    linear_in,
)
from manyhats.methods.libraries.resized import reject_resized
from manyhats.methods.libraries.unclaimed import SiteTensors, UnclaimedTensors
from manyhats.methods.sites import parameter_site

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


def _read_norms(unclaimed: UnclaimedTensors, config: Mapping[str, Any], backbone: Backbone) -> list[Component[Any]]:
    """Norms that replace the backbone's."""
    sites, _ = claim(
        unclaimed,
        r"(.+)\.ln_tuning_layers\.(weight|bias)",
        lambda module: parameter_site(backbone, module).name,
    )
    if not sites:
        raise AdapterMismatch("the file has no ln_tuning_layers")
    return [Component(NAME, ParametersConfig(), sites, label=NORMS)]


def _read_biases(unclaimed: UnclaimedTensors, config: Mapping[str, Any], backbone: Backbone) -> list[Component[Any]]:
    """A bias that is added to the backbone's."""
    sites, _ = claim(unclaimed, r"(.+)\.beft_bias", linear_in(backbone), "bias")
    if not sites:
        raise AdapterMismatch("the file has no beft_bias")
    for site, leaves in sites.items():
        own = backbone.linear[site].bias
        change = leaves["bias"].flatten().float()
        if own is not None and own.shape == change.shape:
            change = change + own.detach().float().cpu()
        leaves["bias"] = change
    return [Component(NAME, ParametersConfig(), sites, label=BIASES)]


def claim_own_parameters(unclaimed: UnclaimedTensors, backbone: Backbone) -> Component[ParametersConfig] | None:
    """The remaining parameters of the backbone: `bias: all`, and `modules_to_save`.

    A weight (out, in) equal to the backbone's is claimed and dropped: PEFT saves embeddings unasked.
    """
    sites: SiteTensors = {}
    for name in unclaimed.names():
        bare = name.removeprefix(WRAPPER) if name.startswith(WRAPPER) else name.removeprefix(PROMPT_WRAPPER)
        if backbone.vocabulary is not None and bare in backbone.vocabulary.bias_names:
            bare = f"{backbone.vocabulary.output_layer}.bias"
        module, _, leaf = bare.rpartition(".")
        site = backbone.find(backbone.bare_name(module))
        if site is None or site.parameter(leaf) is None:
            continue
        tensor, own = site.to_canonical(leaf, unclaimed.claim(name)), site.parameter(leaf)
        if leaf == "weight" and (site.name in backbone.embedding or backbone.in_vocabulary_head(site.name)):
            assert own is not None
            reject_resized(tensor, own, module, backbone)
        if tensor.dim() == 2 and own is not None and equal_weights(tensor, own):
            continue
        leaves = sites.setdefault(site.name, {})
        if leaf in leaves and not equal_weights(leaves[leaf], tensor):
            raise InvalidRequest(f"the file has two values for '{bare}', the other is '{name}'", param=name)
        leaves[leaf] = tensor
    if not sites:
        return None
    only = {leaf for leaves in sites.values() for leaf in leaves}
    return Component(NAME, ParametersConfig(), sites, label=BIASES if only == {"bias"} else None)


def _holds(component: Component[ParametersConfig], backbone: Backbone) -> bool:
    return component.label == NORMS and all(site in backbone.norm for site in component.tensors)


def _write(component: Component[ParametersConfig], full: FullName, backbone: Backbone) -> PeftFiles:
    tensors = {
        f"{WRAPPER}{full(site)}.ln_tuning_layers.{leaf}": tensor
        for site, leaves in component.tensors.items()
        for leaf, tensor in leaves.items()
    }
    return PeftFiles(
        {"peft_type": "LN_TUNING", "target_modules": sorted(full(site) for site in component.tensors)}, tensors
    )


LN_TUNING = PeftType("LN_TUNING", _read_norms, {}, leaves=("ln_tuning_layers",))
BEFT = PeftType("BEFT", _read_biases, {}, leaves=("beft_bias",))
PEFT_WRITER = PeftWriter(_holds, _write)
