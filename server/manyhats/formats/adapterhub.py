"""AdapterHub's adapter folders, as the library `adapters` writes them with `use_safetensors=True` (adapters 1.3).

`adapter_config.json` + `adapter.safetensors`, and for a head `head_config.json` + `model_head.safetensors`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError
from torch import Tensor

from manyhats._version import __version__
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.formats.files import (
    Remaining,
    read_json,
    read_tensors,
    shown,
    text_or_none,
    write_json,
    write_tensors,
)
from manyhats.formats.heads import sequence_kind
from manyhats.methods.adapter import Adapter
from manyhats.methods.base import Part
from manyhats.methods.bottleneck import BottleneckConfig
from manyhats.methods.heads import Head, Kind, Layer, Reads

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

WEIGHTS = "adapter.safetensors"
HEAD_CONFIG = "head_config.json"
HEAD_WEIGHTS = "model_head.safetensors"

# The version whose format is written; `adapters` reads it, and so do we.
_FORMAT_VERSION = "adapters.1.3.0"

# Fields of BnConfig that concern training alone, or that the tensors' names and shapes already say.
_SILENT = {
    "mh_adapter", "output_adapter", "reduction_factor", "leave_out", "dropout", "stochastic_depth",
    "init_weights", "init_weights_seed", "inv_adapter_reduction_factor", "factorized_phm_W",
    "factorized_phm_rule", "hypercomplex_nonlinearity", "learn_phm", "phm_bias", "phm_c_init", "phm_dim",
    "phm_init_range", "phm_rank", "shared_W_phm", "shared_phm_rule", "scaling", "architecture",
}  # fmt: skip


def read(folder: Path, config: dict[str, Any], backbone: Backbone) -> Adapter:
    """Reads a bottleneck adapter and its head. Raises InvalidRequest, AdapterMismatch or UnsupportedFormat."""
    inner = config["config"]
    if not isinstance(inner, dict) or "mh_adapter" not in inner:
        architecture = inner.get("architecture") if isinstance(inner, dict) else inner
        raise AdapterMismatch(
            f"AdapterHub's {shown(architecture)} is not served; bottleneck adapters are", param="architecture"
        )
    if "version" not in config:
        raise AdapterMismatch(
            "the adapter was written by a library older than `adapters`; load and save it with `adapters` 1.x",
            param="version",
        )
    model_type = config.get("model_type")
    if model_type != backbone.config.model_type:
        raise AdapterMismatch(
            f"the adapter is for a model of type {shown(model_type)}, but the backbone {backbone.name} is a "
            f"'{backbone.config.model_type}'",
            param="model_type",
        )
    remaining = Remaining(read_tensors(folder / WEIGHTS), WEIGHTS)
    sites = _bottleneck(remaining, str(config.get("name")), backbone)
    remaining.done()
    part = Part("bottleneck", _bottleneck_config(inner, sites), sites)

    head: Head | None = None
    kind: Kind = "embed"
    settings: dict[str, Any] = {}
    head_tensors = 0
    if (folder / HEAD_CONFIG).exists():
        head, settings, head_tensors = _head(folder, backbone)
        kind = head.kind
    return Adapter(
        parts=(part,),
        head=head,
        kind=kind,
        matched_tensors=remaining.taken + head_tensors,
        base=text_or_none(config.get("model_name")),
        settings=settings,
    )


# ---- bottleneck


def _bottleneck_config(inner: dict[str, Any], sites: dict[str, dict[str, Tensor]]) -> BottleneckConfig:
    fields = {name: value for name, value in inner.items() if name in BottleneckConfig.model_fields}
    fields.pop("epsilon", None)  # always torch's default there
    for name, value in inner.items():
        if name not in fields and name not in _SILENT and value not in (None, False, 0, [], {}, ""):
            raise AdapterMismatch(f"the field '{name}' is set to {shown(value)}, which is not served", param=name)
    learned = inner.get("scaling") in ("learned", "channel")  # then it is a tensor at every site
    for site, leaves in sites.items():
        if ("scaling" in leaves) != learned:
            found = "no" if learned else "a"
            raise AdapterMismatch(
                f"the scaling is {shown(inner.get('scaling'))}, but {site} has {found} tensor for it",
                param="scaling",
            )
    if learned:
        fields.pop("scaling")
    try:
        return BottleneckConfig.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise InvalidRequest(f"adapter_config.json: {field}: {first['msg']}", param=field) from None


def _bottleneck(remaining: Remaining, adapter_name: str, backbone: Backbone) -> dict[str, dict[str, Tensor]]:
    places = {
        path.format(i=layer): f"layers.{layer}.{name}"
        for layer in range(backbone.layers)
        for path, name in zip(backbone.family.sublayers, ("attention", "ffn"), strict=True)
    }
    sites: dict[str, dict[str, Tensor]] = {}
    separator = f".adapters.{adapter_name}."
    for name in remaining.names():
        module, found, leaf = name.partition(separator)
        if not found:
            continue
        site = places.get(module.removeprefix(backbone.prefix + "."))
        if site is None:
            raise AdapterMismatch(
                f"the adapter has weights at '{module}', but the backbone {backbone.name} has no such place",
                param=name,
            )
        ours = _leaf(leaf)
        if ours is None:
            continue
        tensor = remaining.take(name)
        assert tensor is not None
        leaves = sites.setdefault(site, {})
        if ours in leaves:
            raise InvalidRequest(f"two tensors are the '{ours}' of {site}", param=name)
        leaves[ours] = tensor
    for site, leaves in sites.items():
        _name_down(leaves, site)
    return sites


_LEAVES = {
    f"{theirs}.{kind}": f"{ours}.{kind}"
    for theirs, ours in (
        ("adapter_down.0", "down.0"),
        ("adapter_down.1", "down.1"),
        ("adapter_up", "up"),
        ("adapter_norm_before", "norm_before"),
        ("adapter_norm_after", "norm_after"),
    )
    for kind in ("weight", "bias")
} | {"scaling": "scaling"}


def _leaf(leaf: str) -> str | None:
    """Our name for a tensor of one adapter, but for the down-projection's place; see `_name_down`."""
    return _LEAVES.get(leaf)


def _name_down(leaves: dict[str, Tensor], site: str) -> None:
    """With `ln_before` the first layer norm stands twice: by its name, and before the down-projection."""
    place = "down.1" if "down.1.weight" in leaves else "down.0"
    for kind in ("weight", "bias"):
        first, norm = leaves.get(f"down.0.{kind}"), leaves.get(f"norm_before.{kind}")
        if place == "down.1" and first is not None:
            if norm is None or not torch.equal(first, norm):
                raise InvalidRequest(f"adapter_down.0.{kind} and adapter_norm_before.{kind} of {site} differ")
            del leaves[f"down.0.{kind}"]
        if f"{place}.{kind}" in leaves:
            leaves[f"down.{kind}"] = leaves.pop(f"{place}.{kind}")


# ---- head

_HEAD_KINDS: dict[str, tuple[Kind, Reads]] = {
    "classification": ("classify", "first"),
    "tagging": ("tokens", "tokens"),
}


def _head(folder: Path, backbone: Backbone) -> tuple[Head, dict[str, Any], int]:
    outer = read_json(folder / HEAD_CONFIG)
    config = outer.get("config")
    told = config.get("head_type") if isinstance(config, dict) else config
    if not isinstance(config, dict) or not isinstance(told, str) or told not in _HEAD_KINDS:
        raise AdapterMismatch(
            f"the head type {shown(told)} is not served; these are: {', '.join(_HEAD_KINDS)}", param="head_type"
        )
    kind, reads = _HEAD_KINDS[told]
    if config.get("use_pooler") and kind == "classify":
        reads = "pooler"
    remaining = Remaining(read_tensors(folder / HEAD_WEIGHTS), HEAD_WEIGHTS)
    # nn.Sequential of dropout, linear, activation, ...: the linear layers by rising index
    prefix = f"heads.{outer.get('name')}."
    pattern = re.compile(re.escape(prefix) + r"(0|[1-9][0-9]{0,3})\.weight")
    indices = sorted(int(m[1]) for name in remaining.names() if (m := pattern.fullmatch(name)))
    between = config.get("activation_function")
    if len(indices) > 1 and not isinstance(between, str):
        raise InvalidRequest(
            f"activation_function of head_config.json must be a name, not {shown(between)}", param="activation_function"
        )
    layers: list[Layer] = []
    for position, index in enumerate(indices):
        weight = remaining.take(f"{prefix}{index}.weight")
        assert weight is not None
        last = position + 1 == len(indices)
        layers.append(
            Layer(
                weight,
                remaining.take(f"{prefix}{index}.bias"),
                None if last else between,
            )
        )
    remaining.done()
    if not layers:
        raise InvalidRequest(f"model_head.safetensors has no tensor '{prefix}<n>.weight'", param="model_head")
    if len(layers) != config.get("layers"):
        raise InvalidRequest(
            f"head_config.json says {shown(config.get('layers'))} layers, model_head.safetensors holds {len(layers)}",
            param="layers",
        )
    head = Head(kind, reads, tuple(layers))
    head.check(backbone)
    if kind == "classify":
        head = Head(sequence_kind(head.num_labels), reads, head.layers)
    settings: dict[str, Any] = {}
    label2id = config.get("label2id")
    if isinstance(label2id, dict) and head.kind != "regress":
        labels = {place: label for label, place in label2id.items() if type(place) is int}
        if sorted(labels) != list(range(len(label2id))):
            raise InvalidRequest("label2id of head_config.json does not number the labels from 0 on", param="label2id")
        settings["labels"] = [labels[i] for i in range(len(labels))]
    return head, settings, remaining.taken


# ---- writing

_NAME = "task"


def _written(leaf: str, config: BottleneckConfig) -> str:
    """AdapterHub's name for one of our leaves."""
    if leaf == "scaling":
        return leaf
    module, _, kind = leaf.partition(".")
    return f"adapter_{module}.{int(config.ln_before)}.{kind}" if module == "down" else f"adapter_{module}.{kind}"


def _reduction(hidden: int, width: int) -> float:
    """The factor from which `adapters` computes this width, by `int(hidden // factor)`."""
    exact = hidden / width
    return exact if hidden // exact == width else hidden / (width + 0.5)


def write(adapter: Adapter, folder: Path, backbone: Backbone) -> None:
    """Writes a bottleneck adapter and its head as `adapters` does."""
    (part,) = adapter.parts
    config = part.config
    assert isinstance(config, BottleneckConfig)
    places = backbone.family.sublayers
    tensors: dict[str, Tensor] = {}
    widths: dict[str, int] = {}  # by layer
    learned = ""
    for site, leaves in part.tensors.items():
        _, layer, place = site.split(".")
        module = places[("attention", "ffn").index(place)].format(i=layer)
        widths[layer] = leaves["down.weight"].shape[0]
        named = {_written(leaf, config): tensor for leaf, tensor in leaves.items()}
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
        "model_class": "",
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
    write_json(folder / "adapter_config.json", {"config": body} | common)
    write_tensors(folder / WEIGHTS, tensors)
    if adapter.head is None:
        return
    head = adapter.head
    labels = adapter.settings.get("labels") or [f"LABEL_{i}" for i in range(head.num_labels)]
    head_config = {
        "head_type": "tagging" if head.kind == "tokens" else "classification",
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
