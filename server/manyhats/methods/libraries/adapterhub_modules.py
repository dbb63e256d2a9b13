"""The modules into which AdapterHub puts bottleneck adapters: after attention and after feed-forward."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manyhats.errors import AdapterMismatch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from manyhats.backbone import Backbone

AdapterModules = tuple[str, str]  # module paths after attention and after feed-forward; `{i}` is the layer

_BERT = ("encoder.layer.{i}.attention.output", "encoder.layer.{i}.output")
_LLAMA = ("layers.{i}.attention_adapters", "layers.{i}.output_adapters")

_ADAPTER_MODULES: dict[str, AdapterModules] = {
    "bert": _BERT,
    "distilbert": ("transformer.layer.{i}.attention_adapters", "transformer.layer.{i}.output_adapters"),
    "electra": _BERT,
    "gpt2": ("h.{i}.attention_adapters", "h.{i}.output_adapters"),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
}


def adapter_modules_of(model_type: str) -> AdapterModules | None:
    """The modules of a config's `model_type`, relative to the bare model; None where AdapterHub has none."""
    return _ADAPTER_MODULES.get(model_type)


def residual_sites(backbone: Backbone) -> dict[str, str]:
    """Our residual sites by AdapterHub's module paths. Raises AdapterMismatch for an
    architecture that AdapterHub does not have."""
    modules = adapter_modules_of(backbone.config.model_type)
    if modules is None:
        raise AdapterMismatch(
            f"AdapterHub's adapters for {backbone.config.model_type} models are not supported", param="model_type"
        )
    return {
        path.format(i=layer): f"layers.{layer}.{name}"
        for layer in range(backbone.layers)
        for path, name in zip(modules, ("attention", "ffn"), strict=True)
    }


def residual_site(module: str, key: str, backbone: Backbone, sites: Mapping[str, str]) -> str:
    """The residual site of a key's module. `sites`: as `residual_sites` gives them. Raises AdapterMismatch where the
    backbone has none."""
    site = sites.get(backbone.bare_name(module))
    if site is None:
        raise AdapterMismatch(
            f"the adapter has weights at '{module}', but the backbone {backbone.name} has no such place", param=key
        )
    return site
