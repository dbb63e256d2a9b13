"""Applies a sentence-transformers folder's settings to the adapter in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyhats.backbone import sentence_files
from manyhats.backbone.sentence import SentenceEmbedding, modes_of
from manyhats.core.adapter import Adapter
from manyhats.core.kinds.embed import Embed
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.formats.files import read_json, read_json_value, read_tensors
from manyhats.methods.heads import KindName
from manyhats.methods.registry import METHODS

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

_POOLING = "1_Pooling"


def is_folder(folder: Path) -> bool:
    """Whether the folder's adapter computes embeddings: it has a modules.json, and is no cross-encoder."""
    return (folder / sentence_files.MODULES).is_file() and not _is_cross_encoder(folder)


def weight_files(folder: Path) -> set[str]:
    """The safetensors files of the modules in modules.json, relative to the folder; none without modules.json.

    Raises InvalidRequest or AdapterMismatch where modules.json is damaged or not supported.
    """
    return sentence_files.weight_files(_source(folder)) if is_folder(folder) else set()


def read_onto(adapter: Adapter, folder: Path, backbone: Backbone, declared: KindName | None = None) -> Adapter:
    """The adapter with what its sentence-transformers files say; as it is where there are none.

    Existing `adapter.settings` take precedence. `declared`: the kind stated at the upload; the files are ignored for
    others than `embed`. Raises InvalidRequest for damaged or missing files, UnsupportedFormat
    for weights in a pickle, AdapterMismatch for what is not supported or contradicts the adapter.
    """
    if not is_folder(folder):
        _check_alone(folder)
        return adapter
    if declared not in (None, Embed.name):
        warning = f"the sentence-transformers files are not read: by its settings the adapter is of kind '{declared}'"
        return replace(adapter, warnings=(*adapter.warnings, warning))
    embedding = sentence_files.read(_source(folder), backbone.output_width)
    if adapter.head is not None:
        raise AdapterMismatch(
            f"{sentence_files.MODULES} is for embeddings, but the adapter has a head of kind '{adapter.kind}'",
            param=sentence_files.MODULES,
        )
    if any(METHODS[component.method].pooled_virtual_tokens for component in adapter.components):
        raise AdapterMismatch(
            "sentence-transformers pools a prompt's virtual tokens with the text's own; not supported",
            param=sentence_files.MODULES,
        )
    warnings = [f"taken from the sentence-transformers files: {embedding}"]
    if adapter.kind != Embed.name:
        warnings.append(f"by {sentence_files.MODULES} the adapter is of kind '{Embed.name}', not '{adapter.kind}'")
    if embedding.max_tokens is not None:
        embedding = replace(embedding, max_tokens=min(embedding.max_tokens, backbone.max_tokens))
    return replace(
        adapter,
        kind=Embed.name,
        projection=embedding.projection,
        settings=settings_of(embedding) | dict(adapter.settings),
        warnings=(*adapter.warnings, *warnings),
    )


def settings_of(embedding: SentenceEmbedding) -> dict[str, Any]:
    """The same as a task's settings, without those that are not set."""
    settings: dict[str, Any] = {
        "pooling": embedding.pooling if isinstance(embedding.pooling, str) else list(modes_of(embedding.pooling)),
        "normalize": embedding.normalize,
        "prompts": dict(embedding.prompts),
        "include_prompt": embedding.include_prompt,
        "lower_case": embedding.lower_case,
        "overflow": "truncate",
    }
    if embedding.default_prompt_name is not None:
        settings["default_prompt_name"] = embedding.default_prompt_name
    if embedding.max_tokens is not None:
        settings["max_tokens"] = embedding.max_tokens
    return settings


def _source(folder: Path) -> sentence_files.Source:
    return sentence_files.Source(folder, read_json_value, read_tensors)


def _check_alone(folder: Path) -> None:
    """Raises InvalidRequest for files that have no effect without modules.json, or that a cross-encoder does not
    have."""
    if _is_cross_encoder(folder):
        _check_cross_encoder(folder)
        return
    for name in (f"{_POOLING}/config.json", sentence_files.SETTINGS, *sentence_files.TRANSFORMER):
        if (folder / name).is_file():
            raise InvalidRequest(
                f"there is a '{name}' but no {sentence_files.MODULES}, without which it means nothing; send both or "
                "neither",
                param=name,
            )


def _is_cross_encoder(folder: Path) -> bool:
    path = folder / sentence_files.SETTINGS
    return path.is_file() and read_json(path).get("model_type") == "CrossEncoder"


def _check_cross_encoder(folder: Path) -> None:
    """Raises AdapterMismatch for prompts or limits, which would change the scores of its head."""
    config = read_json(folder / sentence_files.SETTINGS)
    name = config.get("default_prompt_name")
    if name is not None:
        raise AdapterMismatch(
            f"default_prompt_name is '{str(name)[:100]}', which is not supported for a cross-encoder", param="prompts"
        )
