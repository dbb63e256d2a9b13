"""sentence-transformers' formulae (release 5.7) over padded batches, in plain torch, and the files that it writes.

The library is not installed here; these are its modules Pooling, Dense, LayerNorm and Normalize written out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

OLD = "sentence_transformers.models.{}"
NEW = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
    "LayerNorm": "sentence_transformers.sentence_transformer.modules.layer_norm.LayerNorm",
    "Dropout": "sentence_transformers.sentence_transformer.modules.dropout.Dropout",
    "CNN": "sentence_transformers.sentence_transformer.modules.cnn.CNN",
}
FLAGS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
MODES = tuple(FLAGS)


def pooling(token_embeddings: Tensor, attention_mask: Tensor, modes: Sequence[str], prompt_length: int = 0) -> Tensor:
    """Pooling.forward. token_embeddings: (batch, tokens, width), padded on the right; gives (batch, modes * width)."""
    attention_mask = attention_mask.clone()
    attention_mask[:, :prompt_length] = 0
    mask = attention_mask.unsqueeze(-1).expand_as(token_embeddings).to(token_embeddings.dtype)
    vectors = []
    for mode in modes:
        if mode == "cls":
            first = attention_mask.argmax(dim=1)
            vectors.append(token_embeddings[torch.arange(len(first)), first])
        elif mode == "max":
            vectors.append(token_embeddings.masked_fill(mask == 0, float("-inf")).max(dim=1).values)
        elif mode in ("mean", "mean_sqrt_len_tokens"):
            count = torch.clamp(mask.sum(1), min=1e-9)
            total = (token_embeddings * mask).sum(1)
            vectors.append(total / (count if mode == "mean" else torch.sqrt(count)))
        elif mode == "weightedmean":
            places = torch.arange(1, token_embeddings.shape[1] + 1)[None, :, None].expand_as(token_embeddings)
            weights = mask * places.to(token_embeddings.dtype)
            vectors.append((token_embeddings * weights).sum(1) / torch.clamp(weights.sum(1), min=1e-9))
        else:
            length = token_embeddings.shape[1]
            last = length - 1 - attention_mask.flip(1).max(1).indices
            vectors.append((token_embeddings * mask)[torch.arange(len(last)), last])
    return torch.cat(vectors, dim=-1)


def padded(states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """States of several texts as the library's encoder gives them: noise behind the shorter ones, and the mask."""
    length = max(len(s) for s in states)
    batch = torch.full((len(states), length, states[0].shape[1]), 7.5)
    mask = torch.zeros(len(states), length, dtype=torch.int64)
    for i, own in enumerate(states):
        batch[i, : len(own)] = own
        mask[i, : len(own)] = 1
    return batch, mask


def dense(width: int, out: int, activation: str = "Tanh", *, bias: bool = True, residual: bool = False, seed: int = 0):
    """A Dense module's layer: its config and tensors."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {"linear.weight": torch.randn(out, width, generator=generator) * 0.3}
    if bias:
        tensors["linear.bias"] = torch.randn(out, generator=generator)
    if residual and width != out:
        tensors["residual.weight"] = torch.randn(out, width, generator=generator) * 0.3
    module = "linear" if activation == "Identity" else "activation"
    config: dict[str, Any] = {
        "in_features": width,
        "out_features": out,
        "bias": bias,
        "activation_function": f"torch.nn.modules.{module}.{activation}",
    }
    return config | ({"use_residual": True} if residual else {}), tensors


def apply_dense(config: dict[str, Any], tensors: dict[str, Tensor], x: Tensor) -> Tensor:
    """Dense.forward."""
    layer = nn.Linear(config["in_features"], config["out_features"], bias=config["bias"])
    layer.load_state_dict({key.removeprefix("linear."): t for key, t in tensors.items() if key.startswith("linear.")})
    activation = getattr(nn, config["activation_function"].rpartition(".")[2])()
    with torch.inference_mode():
        out = activation(layer(x))
        if config.get("use_residual"):
            out = out + (x @ tensors["residual.weight"].T if "residual.weight" in tensors else x)
    return out


Behind = tuple[str, dict[str, Any], dict[str, Tensor]]  # a module behind the pooling: class, config, tensors


def write(
    folder: Path,
    modes: Sequence[str] = ("mean",),
    behind: Sequence[Behind] = (),
    *,
    new: bool = False,
    width: int = 32,
    include_prompt: bool = True,
    max_seq_length: int | None = None,
    do_lower_case: bool = False,
    **settings: Any,
) -> Path:
    """Writes what the library puts beside a model. `new`: as release 5.4 and later write it."""
    chain: list[Behind] = [("Transformer", {}, {}), ("Pooling", {}, {}), *behind]
    modules = []
    for i, (name, config, tensors) in enumerate(chain):
        place = "" if i == 0 else f"{i}_{name}"
        modules.append({"idx": i, "name": str(i), "path": place, "type": NEW[name] if new else OLD.format(name)})
        if i:
            (folder / place).mkdir(parents=True, exist_ok=True)
        if config:
            (folder / place / "config.json").write_text(json.dumps(config))
        if tensors:
            save_file(tensors, folder / place / "model.safetensors")
    if new:
        said: Any = modes[0] if len(modes) == 1 else list(modes)
        config = {"embedding_dimension": width, "pooling_mode": said, "include_prompt": include_prompt}
        transformer: dict[str, Any] = {
            "transformer_task": "feature-extraction",
            "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            "module_output_name": "token_embeddings",
        }
        if max_seq_length is not None:
            (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": max_seq_length}))
    else:
        config = {"word_embedding_dimension": width, **{flag: mode in modes for mode, flag in FLAGS.items()}}
        config["include_prompt"] = include_prompt
        transformer = {"max_seq_length": max_seq_length, "do_lower_case": do_lower_case}
    (folder / "1_Pooling/config.json").write_text(json.dumps(config))
    (folder / "sentence_bert_config.json").write_text(json.dumps(transformer))
    (folder / "modules.json").write_text(json.dumps(modules))
    told = {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"} | settings
    (folder / "config_sentence_transformers.json").write_text(json.dumps(told))
    return folder
