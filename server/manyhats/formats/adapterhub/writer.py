"""Writes a bottleneck adapter and its head as `adapters` does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from manyhats._version import __version__
from manyhats.core.adapter import Adapter
from manyhats.core.kinds.registry import KINDS
from manyhats.errors import InvalidRequest
from manyhats.formats.adapterhub.names import CONFIG, HEAD_CONFIG, HEAD_WEIGHTS, WEIGHTS
from manyhats.formats.adapterhub.places import places_of
from manyhats.formats.files import write_json, write_tensors
from manyhats.formats.kinds import adapterhub_head_type
from manyhats.methods.bottleneck import BottleneckConfig

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

# The version whose format is written; `adapters` reads it, and so do we.
_FORMAT_VERSION = "adapters.1.3.0"
_NAME = "task"


def _written(leaf: str, config: BottleneckConfig, *, compacter: bool) -> str:
    """AdapterHub's name for one of our leaves."""
    if leaf == "scaling" or leaf.startswith("gate."):
        return leaf
    module, _, kind = leaf.partition(".")
    if compacter:
        kind = {"left": "W_left", "right": "W_right", "bias": "b"}[kind]
    return f"adapter_{module}.{int(config.ln_before)}.{kind}" if module == "down" else f"adapter_{module}.{kind}"


def _reduction(hidden: int, width: int) -> float:
    """The factor from which `adapters` computes this width, by `int(hidden // factor)`."""
    exact = hidden / width
    return exact if hidden // exact == width else hidden / (width + 0.5)


def write(adapter: Adapter, folder: Path, backbone: Backbone) -> None:
    """Writes a bottleneck adapter and its head as `adapters` does."""
    (part,) = adapter.components
    config = part.config
    assert isinstance(config, BottleneckConfig)
    places = places_of(backbone.config.model_type)
    if places is None:
        raise InvalidRequest(f"AdapterHub has no names for adapters of {backbone.config.model_type} models")
    tensors: dict[str, Tensor] = {}
    widths: dict[str, int] = {}  # by layer
    learned = ""
    rule: Tensor | None = None
    for site, leaves in part.tensors.items():
        _, layer, place = site.split(".")
        module = places[("attention", "ffn").index(place)].format(i=layer)
        widths[layer] = leaves["down.bias"].shape[0]
        rule = leaves.get("rule")
        named = {
            _written(leaf, config, compacter=rule is not None): tensor
            for leaf, tensor in leaves.items()
            if leaf != "rule"
        }
        if config.ln_before:  # stored twice, as the library's own module tree has it
            named |= {f"adapter_down.0.{kind}": leaves[f"norm_before.{kind}"].clone() for kind in ("weight", "bias")}
        if "scaling" in leaves:
            learned = "learned" if leaves["scaling"].numel() == 1 else "channel"
        for theirs, tensor in named.items():
            tensors[f"{backbone.prefix}.{module}.adapters.{_NAME}.{theirs}"] = tensor
    factors = {layer: _reduction(backbone.hidden, width) for layer, width in widths.items()}
    same = len(set(factors.values())) == 1
    common = {
        "hidden_size": backbone.hidden,
        "model_class": (backbone.config.architectures or [""])[0] if KINDS[adapter.kind].generates else "",
        "model_name": backbone.name,
        "model_type": backbone.config.model_type,
        "name": _NAME,
        "version": _FORMAT_VERSION,
        "written_by": f"manyhats {__version__}",
    }
    body = config.model_dump(exclude={"epsilon"}) | {
        "mh_adapter": any(site.endswith(".attention") for site in part.tensors),
        "output_adapter": any(site.endswith(".ffn") for site in part.tensors),
        "reduction_factor": next(iter(factors.values())) if same else factors | {"default": 1},
        "leave_out": [i for i in range(backbone.layers) if str(i) not in widths],
    }
    if learned:
        body["scaling"] = learned
    if rule is not None:
        tensors[f"{backbone.prefix}.shared_parameters.{_NAME}.phm_rule"] = rule
        body |= {
            "phm_layer": True,
            "phm_dim": len(rule),
            "phm_rank": 1,
            "phm_bias": True,
            "phm_c_init": "normal",
            "phm_init_range": 0.0001,
            "learn_phm": True,
            "factorized_phm_W": True,
            "factorized_phm_rule": False,
            "shared_phm_rule": True,
            "shared_W_phm": False,
            "hypercomplex_nonlinearity": "glorot-uniform",
        }
    write_json(folder / CONFIG, {"config": body} | common)
    write_tensors(folder / WEIGHTS, tensors)
    if adapter.head is None:
        return
    head = adapter.head
    labels = adapter.settings.get("labels") or [f"LABEL_{i}" for i in range(head.num_labels)]
    head_type = adapterhub_head_type(head.kind)
    if adapter.settings.get("defaults", {}).get("multi_label"):
        head_type = "multilabel_classification"
    head_config = {
        "head_type": head_type,
        "num_labels": head.num_labels,
        "layers": len(head.layers),
        "activation_function": next((layer.activation for layer in head.layers if layer.activation), "tanh"),
        "label2id": {label: i for i, label in enumerate(labels)},
        "bias": head.layers[-1].bias is not None,
        "use_pooler": head.reads == "pooler",
    }
    write_json(folder / HEAD_CONFIG, {"config": head_config} | common)
    head_tensors: dict[str, Tensor] = {}
    for i, (weight, bias, _) in enumerate(head.layers):
        index = 1 + 3 * i  # dropout, linear, activation
        head_tensors[f"heads.{_NAME}.{index}.weight"] = weight
        if bias is not None:
            head_tensors[f"heads.{_NAME}.{index}.bias"] = bias
    write_tensors(folder / HEAD_WEIGHTS, head_tensors)
