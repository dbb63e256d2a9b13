"""AdapterHub's adapter folders, as the library `adapters` writes them with `use_safetensors=True` (adapters 1.3).

`adapter_config.json` + `adapter.safetensors`, and for a head `head_config.json` + `model_head.safetensors`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from torch import Tensor

from manyhats._version import __version__
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.formats.files import Remaining, read_json, read_tensors, write_json, write_tensors
from manyhats.formats.heads import sequence_kind
from manyhats.methods.adapter import Adapter
from manyhats.methods.base import Part
from manyhats.methods.bottleneck import BottleneckConfig
from manyhats.methods.heads import Head, Kind, Layer, Reads

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

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
            f"AdapterHub's '{architecture}' is not served; bottleneck adapters are", param="architecture"
        )
    if "version" not in config:
        raise AdapterMismatch(
            "the adapter was written by a library older than `adapters`; load and save it with `adapters` 1.x",
            param="version",
        )
    model_type = config.get("model_type")
    if model_type != backbone.config.model_type:
        raise AdapterMismatch(
            f"the adapter is for a model of type '{model_type}', but the backbone {backbone.name} is a "
            f"'{backbone.config.model_type}'",
            param="model_type",
        )
    remaining = Remaining(read_tensors(folder / "adapter.safetensors"), "adapter.safetensors")
    part = Part("bottleneck", _bottleneck_config(inner), _bottleneck(remaining, str(config.get("name")), backbone))
    remaining.done()

    head: Head | None = None
    kind: Kind = "embed"
    settings: dict[str, Any] = {}
    head_tensors = 0
    if (folder / "head_config.json").exists():
        head, settings, head_tensors = _head(folder, backbone)
        kind = head.kind
    return Adapter(
        parts=(part,),
        head=head,
        kind=kind,
        matched_tensors=remaining.taken + head_tensors,
        base=config.get("model_name"),
        settings=settings,
    )


# ---- bottleneck


def _bottleneck_config(inner: dict[str, Any]) -> BottleneckConfig:
    fields = {name: value for name, value in inner.items() if name in BottleneckConfig.model_fields}
    for name, value in inner.items():
        if name not in fields and name not in _SILENT and value not in (None, False, 0, [], {}, ""):
            raise AdapterMismatch(f"the field '{name}' is set to {value!r}, which is not served", param=name)
    if not isinstance(inner.get("scaling", 1.0), (int, float)):
        fields.pop("scaling")  # "learned" and "channel": the scaling is a tensor
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
        sites.setdefault(site, {})[ours] = tensor
    return sites


def _leaf(leaf: str) -> str | None:
    """Our name for a tensor of one adapter. With `ln_before` the first layer norm is stored twice."""
    if match := re.fullmatch(r"adapter_down\.[01]\.(weight|bias)", leaf):
        return f"down.{match[1]}"
    for theirs, ours in (
        ("adapter_up", "up"),
        ("adapter_norm_before", "norm_before"),
        ("adapter_norm_after", "norm_after"),
    ):
        if leaf.startswith(theirs + "."):
            return ours + leaf.removeprefix(theirs)
    return "scaling" if leaf == "scaling" else None


# ---- head

_HEAD_KINDS: dict[str, tuple[Kind, Reads]] = {
    "classification": ("classify", "first"),
    "tagging": ("tokens", "tokens"),
}


def _head(folder: Path, backbone: Backbone) -> tuple[Head, dict[str, Any], int]:
    outer = read_json(folder / "head_config.json")
    config = outer.get("config")
    if not isinstance(config, dict) or config.get("head_type") not in _HEAD_KINDS:
        told = config.get("head_type") if isinstance(config, dict) else config
        raise AdapterMismatch(
            f"the head type {told!r} is not served; these are: {', '.join(_HEAD_KINDS)}", param="head_type"
        )
    kind, reads = _HEAD_KINDS[config["head_type"]]
    if config.get("use_pooler"):
        reads = "pooler"
    remaining = Remaining(read_tensors(folder / "model_head.safetensors"), "model_head.safetensors")
    # nn.Sequential of dropout, linear, activation, ...: the linear layers by rising index
    prefix = f"heads.{outer.get('name')}."
    indices = sorted(
        int(m[1]) for name in remaining.names() if (m := re.fullmatch(re.escape(prefix) + r"(\d+)\.weight", name))
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
                None if last else config.get("activation_function"),
            )
        )
    remaining.done()
    if not layers:
        raise InvalidRequest(f"model_head.safetensors has no tensor '{prefix}<n>.weight'", param="model_head")
    if len(layers) != config.get("layers"):
        raise InvalidRequest(
            f"head_config.json says {config.get('layers')} layers, model_head.safetensors holds {len(layers)}",
            param="layers",
        )
    if kind == "classify":
        kind = sequence_kind(layers[-1].weight.shape[0])
    settings: dict[str, Any] = {}
    label2id = config.get("label2id")
    if isinstance(label2id, dict) and kind != "regress":
        settings["labels"] = [str(label) for label, _ in sorted(label2id.items(), key=lambda item: item[1])]
    return Head(kind, reads, tuple(layers)), settings, remaining.taken


# ---- writing

_NAME = "task"


def write(adapter: Adapter, folder: Path, backbone: Backbone) -> None:
    """Writes a bottleneck adapter and its head as `adapters` does."""
    (part,) = adapter.parts
    config = part.config
    assert isinstance(config, BottleneckConfig)
    places = backbone.family.sublayers
    tensors: dict[str, Tensor] = {}
    width = 1
    for site, leaves in part.tensors.items():
        _, layer, place = site.split(".")
        module = places[("attention", "ffn").index(place)].format(i=layer)
        width = leaves["down.weight"].shape[0]
        for leaf, tensor in leaves.items():
            theirs = leaf.replace("down.", "adapter_down.0.").replace("up.", "adapter_up.")
            tensors[f"{backbone.prefix}.{module}.adapters.{_NAME}.{theirs}"] = tensor
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
        "reduction_factor": backbone.hidden / width,
    }
    write_json(folder / "adapter_config.json", {"config": body} | common)
    write_tensors(folder / "adapter.safetensors", tensors)
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
    write_json(folder / "head_config.json", {"config": head_config} | common)
    head_tensors: dict[str, Tensor] = {}
    for i, (weight, bias, _) in enumerate(head.layers):
        index = 1 + 3 * i  # dropout, linear, activation
        head_tensors[f"heads.{_NAME}.{index}.weight"] = weight
        if bias is not None:
            head_tensors[f"heads.{_NAME}.{index}.bias"] = bias
    write_tensors(folder / "model_head.safetensors", head_tensors)
