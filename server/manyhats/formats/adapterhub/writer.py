"""Writes an adapter of one component and its head as `adapters` does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from manyhats._version import __version__
from manyhats.core.adapter import Adapter
from manyhats.core.kinds.registry import KINDS
from manyhats.errors import InvalidRequest
from manyhats.formats.adapterhub.names import CONFIG, HEAD_CONFIG, HEAD_WEIGHTS, WEIGHTS
from manyhats.formats.files import write_json, write_tensors
from manyhats.formats.kinds import adapterhub_head_type
from manyhats.methods.registry import METHODS

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

# The version whose format is written.
_FORMAT_VERSION = "adapters.1.3.0"
_NAME = "task"


def holds(adapter: Adapter) -> bool:
    """Whether AdapterHub's files can store the adapter: it has one component, of a method that writes them."""
    if len(adapter.components) != 1:
        return False
    architecture = METHODS[adapter.components[0].method].adapterhub
    return architecture is not None and architecture.write is not None


def write(adapter: Adapter, folder: Path, backbone: Backbone) -> None:
    """Writes an adapter that AdapterHub's files hold. Raises InvalidRequest for what they cannot store."""
    (component,) = adapter.components
    architecture = METHODS[component.method].adapterhub
    if architecture is None or architecture.write is None:
        raise InvalidRequest(f"AdapterHub has no files for the method '{component.method}'")
    inner, tensors = architecture.write(component, _NAME, backbone)
    common = {
        "hidden_size": backbone.hidden,
        "model_class": (backbone.config.architectures or [""])[0] if KINDS[adapter.kind].generates else "",
        "model_name": backbone.name,
        "model_type": backbone.config.model_type,
        "name": _NAME,
        "version": _FORMAT_VERSION,
        "written_by": f"manyhats {__version__}",
    }
    write_json(folder / CONFIG, {"config": inner} | common)
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
