"""IA3: learned vectors that rescale activations (Liu et al. 2022, section 3.3).

y = l * (W x + b)        at keys, values, and AdapterHub's feed-forward
y = W (l * x) + b        at the feed-forward layers of PEFT's files
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

import torch
from torch import Tensor, nn

from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.kernels.base import ScaleAdd
from manyhats.methods.base import BoundComponent, Method, Trainable, expect_shape, in_dtype
from manyhats.methods.component import Component, MethodConfig, StateDict, size_of
from manyhats.methods.libraries.adapterhub import AdapterHubArchitecture, AdapterHubFile
from manyhats.methods.libraries.adapterhub_lora import ARCHITECTURE, MODE, adapted_thirds, claim_lora, is_fused
from manyhats.methods.libraries.peft import WRAPPER, FullName, PeftFiles, PeftType, PeftWriter, claim, linear_in
from manyhats.methods.libraries.peft_fields import FLAG, TEXTS
from manyhats.methods.libraries.unclaimed import UnclaimedTensors
from manyhats.methods.operations import Operation, ScaleInput, ScaleOutput
from manyhats.methods.options import Options
from manyhats.methods.recipe import Recipe, Schedule
from manyhats.methods.sites import linear_site
from manyhats.methods.targets import target_sites

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

NAME: Final = "ia3"


class Ia3Config(MethodConfig):
    """No fields: the tensors' names say which side of the layer is rescaled."""


def _operations(leaves: StateDict) -> list[Operation]:
    found: list[Operation] = []
    if "input" in leaves:
        found.append(ScaleInput(ScaleAdd(gain=leaves["input"])))
    if "output" in leaves:
        found.append(ScaleOutput(ScaleAdd(gain=leaves["output"])))
    return found


# ---- PEFT's files


def _read_peft(unclaimed: UnclaimedTensors, config: Mapping[str, Any], backbone: Backbone) -> list[Component[Any]]:
    """The vector's own shape says which side of the layer it rescales: (out, 1) or (1, in)."""
    sites, _ = claim(unclaimed, r"(.+)\.ia3_l", linear_in(backbone), "l")
    if not sites:
        raise AdapterMismatch("the file has no ia3_l weights")
    for site, leaves in sites.items():
        vector = leaves.pop("l")
        if vector.dim() != 2 or 1 not in vector.shape:
            raise AdapterMismatch(
                f"ia3_l of '{site}' has shape {list(vector.shape)}, but must be a row or a column", param=site
            )
        leaves["input" if vector.shape[0] == 1 and vector.shape[1] > 1 else "output"] = vector.flatten()
    return [Component(NAME, Ia3Config(), sites)]


def _holds(component: Component[Ia3Config], backbone: Backbone) -> bool:
    return component.label in (None, NAME)


def _write(component: Component[Ia3Config], full: FullName, backbone: Backbone) -> PeftFiles:
    inputs = [site for site, leaves in component.tensors.items() if "input" in leaves]
    if any(set(leaves) == {"input", "output"} for leaves in component.tensors.values()):
        raise InvalidRequest("PEFT rescales what a layer reads, or what it gives, and not both")
    fields = {
        "peft_type": "IA3",
        "target_modules": sorted(full(site) for site in component.tensors),
        "feedforward_modules": sorted(full(site) for site in inputs),
    }
    tensors = {
        f"{WRAPPER}{full(site)}.ia3_l": leaves["input"][None, :] if "input" in leaves else leaves["output"][:, None]
        for site, leaves in component.tensors.items()
    }
    return PeftFiles(fields, tensors)


IA3 = PeftType("IA3", _read_peft, {"feedforward_modules": TEXTS, "init_ia3_weights": FLAG}, leaves=("ia3_l",))
WRITER = PeftWriter(_holds, _write)


# ---- AdapterHub's files


def _matches(config: Mapping[str, Any]) -> bool:
    return config.get("architecture") == ARCHITECTURE and config.get(MODE) == "scale"


def _read_adapterhub(
    unclaimed: UnclaimedTensors, config: Mapping[str, Any], file: AdapterHubFile, backbone: Backbone
) -> list[Component[Any]]:
    """AdapterHub stores it as a LoRA of one vector, which scales the output."""
    sites = claim_lora(unclaimed, config, file.name, backbone)
    for site, leaves in sites.items():
        if set(leaves) != {"B"}:
            raise AdapterMismatch(f"an IA3 has lora_B alone, but {site} has {', '.join(sorted(leaves))}", param=site)
        out = backbone.linear[site].shape[0]
        leaves["output"] = _widen(leaves.pop("B").flatten(), out, config.get("attn_matrices"), site)
    return [Component(NAME, Ia3Config(), sites)]


def _widen(vector: Tensor, out: int, matrices: Any, site: str) -> Tensor:
    """A scale for all outputs: 1 where GPT-2's fused layer is not adapted. `matrices`: the field `attn_matrices`.

    Raises AdapterMismatch for a vector of another length than the adapted thirds have.
    """
    if not is_fused(len(vector), out, site):
        return vector
    width = out // 3
    thirds = adapted_thirds(matrices)
    if len(vector) != width * len(thirds):
        raise AdapterMismatch(f"lora_B of {site} has {len(vector)} rows, not {width * len(thirds)}", param=site)
    whole = torch.ones(out)
    for chunk, third in zip(torch.split(vector, width), thirds, strict=True):
        whole[third * width : (third + 1) * width] = chunk
    return whole


ADAPTERHUB = AdapterHubArchitecture(description="lora", matches=_matches, read=_read_adapterhub)


class Ia3(Method[Ia3Config]):
    """Tensors at a linear site: `output` (out,), `input` (in,), or both."""

    name: ClassVar[str] = NAME
    config = Ia3Config
    peft_types = (IA3,)
    peft_writer = WRITER
    adapterhub = ADAPTERHUB
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "ia3": Recipe(NAME, Schedule(5e-2, 3e-3, weight_decay=0.0), "Liu et al. 2022", peft=True),
    }

    def check(self, component: Component[Ia3Config], backbone: Backbone) -> None:
        for site, leaves in component.tensors.items():
            out, width = linear_site(backbone, site).shape
            shapes = {"output": (out,), "input": (width,)}
            for leaf, tensor in leaves.items():
                if leaf not in shapes:
                    raise AdapterMismatch(f"IA3 has no place for '{site}.{leaf}'", param=leaf)
                expect_shape(tensor, shapes[leaf], f"{site}.ia3_l", backbone)

    def bind(self, component: Component[Ia3Config], backbone: Backbone) -> BoundComponent:
        ready = {site: in_dtype(leaves, backbone) for site, leaves in component.tensors.items()}
        linear = {site: _operations(leaves) for site, leaves in ready.items()}
        return BoundComponent(linear=linear, nbytes=size_of(ready.values()))

    def trainable(self, backbone: Backbone, options: Mapping[str, Any], generator: torch.Generator) -> Trainable:
        chosen = Options(options, method=self.name)
        outputs = chosen.names("targets", ["keys-and-values"])
        inputs = chosen.names("feedforward", ["feed-forward"])
        chosen.reject_unknown()
        return _TrainableIa3(
            backbone,
            _named(backbone, outputs, ["keys-and-values"], KEYS_AND_VALUES, "targets"),
            _named(backbone, inputs, ["feed-forward"], FEED_FORWARD, "feedforward"),
        )


# The families' names for the layers that the paper rescales.
KEYS_AND_VALUES = ("key", "value", "k_proj", "v_proj", "k_lin", "v_lin", "query_key_value", "Wqkv", "attn.c_attn")
FEED_FORWARD = ("output.dense", "down_proj", "lin2", "fc2", "ffn_output", "dense_4h_to_h", "mlp.c_proj", "mlp.Wo")


def _named(
    backbone: Backbone, given: Sequence[str], meant: Sequence[str], known: Sequence[str], option: str
) -> list[str]:
    """The sites with these names, or by default those in the families' lists."""
    if list(given) != list(meant):
        return target_sites(backbone, given)
    found = [
        site
        for site in target_sites(backbone, ["all-linear"])
        if site.endswith(tuple("." + name for name in known)) and not site.endswith("attention.output.dense")
    ]
    if not found:
        raise InvalidRequest(f"ia3: name the layers of this backbone by the option {option}", param=option)
    return found


class _TrainableIa3(Trainable):
    def __init__(self, backbone: Backbone, outputs: Sequence[str], inputs: Sequence[str]) -> None:
        super().__init__()
        self.outputs = list(outputs)
        self.sites = [*outputs, *inputs]
        sizes = [backbone.linear[site].shape[0] for site in outputs] + [backbone.linear[s].shape[1] for s in inputs]
        self.scales = nn.ParameterList(  # ones: training starts from the backbone
            nn.Parameter(torch.ones(size, device=backbone.device)) for size in sizes
        )

    def _leaves(self) -> dict[str, dict[str, Tensor]]:
        sites: dict[str, dict[str, Tensor]] = {}
        for index, (site, scale) in enumerate(zip(self.sites, self.scales, strict=True)):
            sites.setdefault(site, {})["output" if index < len(self.outputs) else "input"] = scale
        return sites

    def bound(self) -> BoundComponent:
        return BoundComponent(linear={site: _operations(leaves) for site, leaves in self._leaves().items()})

    def component(self) -> Component[Ia3Config]:
        sites = self._leaves().items()
        return Component(
            NAME,
            Ia3Config(),
            {site: {name: scale.detach().cpu() for name, scale in leaves.items()} for site, leaves in sites},
        )
