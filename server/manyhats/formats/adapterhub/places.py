"""Where the keys of AdapterHub's bottleneck adapters put them: the modules after attention and after feed-forward."""

from __future__ import annotations

Places = tuple[str, str]  # module paths after attention and after feed-forward; `{i}` is the layer

_BERT = ("encoder.layer.{i}.attention.output", "encoder.layer.{i}.output")
_LLAMA = ("layers.{i}.attention_adapters", "layers.{i}.output_adapters")

_PLACES: dict[str, Places] = {
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


def places_of(model_type: str) -> Places | None:
    """The modules of a config's `model_type`, relative to the bare model; None where AdapterHub has none."""
    return _PLACES.get(model_type)
