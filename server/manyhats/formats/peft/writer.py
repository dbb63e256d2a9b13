"""Writes adapters as PEFT does, so that PEFT and the servers that read its files load them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from manyhats.backbone.sites import LM_HEAD
from manyhats.core.adapter import Adapter
from manyhats.core.kinds.registry import KINDS
from manyhats.errors import InvalidRequest
from manyhats.formats.files import write_json, write_tensors
from manyhats.formats.heads import head_layers
from manyhats.formats.peft.names import WEIGHTS
from manyhats.methods.heads import Head
from manyhats.methods.libraries.peft import PROMPT_WRAPPER, WRAPPER
from manyhats.methods.registry import METHODS

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


def holds(adapter: Adapter, backbone: Backbone) -> bool:
    """Whether it is of one PEFT method, and the files that `write` makes can store all of it."""
    if len(adapter.components) != 1:
        return False
    (component,) = adapter.components
    writer = METHODS[component.method].peft_writer
    return writer is not None and not component.gated and writer.holds(component, backbone)


def write(adapter: Adapter, folder: Path, backbone: Backbone) -> None:
    """Writes an adapter of one component, and its head, as PEFT does.

    Raises InvalidRequest for what PEFT cannot store.
    """
    (component,) = adapter.components
    writer = METHODS[component.method].peft_writer
    if writer is None:
        raise InvalidRequest(f"PEFT has no format for the method {component.method}")
    # Embeddings are trained on the bare model.
    prefix = "" if KINDS[adapter.kind].ends_in_states else backbone.prefix + "."

    def full(site: str) -> str:
        return site if site == LM_HEAD else prefix + site

    fields, tensors = writer.write(component, full, backbone)
    config = {
        "base_model_name_or_path": backbone.name,
        "inference_mode": True,
        "task_type": KINDS[adapter.kind].libraries.peft,
    } | fields
    if adapter.head is not None:
        # PEFT adds the name of the other head layer itself, and wraps a module twice that is named twice.
        if KINDS[adapter.kind].libraries.head_layer is None:
            config["modules_to_save"] = ["classifier", "score"]
        tensors = tensors | _head(adapter.head, PROMPT_WRAPPER if writer.prompt else WRAPPER, backbone)
    write_json(folder / "adapter_config.json", config)
    write_tensors(folder / WEIGHTS, tensors)


def _head(head: Head, wrapper: str, backbone: Backbone) -> dict[str, Tensor]:
    """The tensors of a head with the layers of the family's own. Raises InvalidRequest for others."""
    layout, token_layer = backbone.task_heads.classification, backbone.task_heads.tokens
    if layout is None or token_layer is None:
        raise InvalidRequest(f"PEFT's files do not hold the whole head of {backbone.config.model_type} models")
    names = head_layers(head.kind, layout.linears, token_layer)
    if len(names) != len(head.layers):
        raise InvalidRequest(
            f"PEFT's files hold the family's own head, which has {len(names)} layers and not {len(head.layers)}"
        )
    tensors = {}
    for name, layer in zip(names, head.layers, strict=True):
        tensors[f"{wrapper}{name}.weight"] = layer.weight
        if layer.bias is not None:
            tensors[f"{wrapper}{name}.bias"] = layer.bias
    return tensors
