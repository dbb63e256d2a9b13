"""Finds out which format an adapter folder has, and reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from manyhats.core.adapter import Adapter
from manyhats.core.kinds.registry import KINDS
from manyhats.errors import InvalidRequest, UnsupportedFormat
from manyhats.formats.adapterhub import names as adapterhub_names
from manyhats.formats.adapterhub import reader as adapterhub
from manyhats.formats.adapterhub.setup import is_setup, read_setup, setup_weights
from manyhats.formats.contents import Contents, matches, names_of, select
from manyhats.formats.files import read_json
from manyhats.formats.kinds import Beside
from manyhats.formats.model_config import read_model_config, with_model_config
from manyhats.formats.native import names as own_names
from manyhats.formats.native import reader as own
from manyhats.formats.native.compositions import compose
from manyhats.formats.native.description import describe
from manyhats.formats.peft import reader as peft
from manyhats.formats.peft.names import WEIGHT_FILES
from manyhats.formats.pickles import looks_like_pickle, pickle_message
from manyhats.formats.sentence_transformers import reader as sentence_transformers
from manyhats.formats.tokenizer_files import with_tokenizer_files
from manyhats.messages import short_repr
from manyhats.methods.heads import KindName

if TYPE_CHECKING:
    from manyhats.backbone import Backbone
    from manyhats.formats.native.description import Description

Resolve = Callable[[str], Path]
_DEPTH = 4  # of compositions made of compositions


def read_adapter(
    folder: Path, backbone: Backbone, resolve: Resolve | None = None, kind: KindName | None = None
) -> Adapter:
    """Reads and checks an adapter folder: every tensor finite, matched to a site and of the right shape.

    `resolve` finds the folder of a stored adapter by its sha256, for one that is made of others. `kind`: what whoever
    brings the adapter says that it is for, which holds where its head allows it.

    Raises UnsupportedFormat for pickles, InvalidRequest for damaged or incomplete files, AdapterMismatch for an
    adapter that this backbone cannot wear.
    """
    return _read(folder, backbone, resolve, kind, 0)


def _read(folder: Path, backbone: Backbone, resolve: Resolve | None, kind: KindName | None, depth: int) -> Adapter:
    contents = select(names_of(folder))
    contents.check()
    folder = folder / contents.root
    weights = _weights(folder, contents)
    description = describe(folder, backbone)
    if description is not None and description.format != "manyhats-task/1":
        _refuse_strangers(folder, weights, (own_names.WEIGHTS,))
        if description.members:
            adapter = compose(folder, description, backbone, _members(description, backbone, resolve, depth))
        else:
            adapter = own.read(folder, description, backbone)
    else:
        said = _kind(description) if description is not None else None
        adapter = _read_library(folder, weights, backbone, kind or said)
        if description is not None:
            adapter = replace(adapter, settings=dict(adapter.settings) | description.task)
    adapter = sentence_transformers.read_onto(adapter.as_kind(kind, backbone), folder, backbone, kind)
    adapter.check(backbone)
    labels = adapter.settings.get("labels")
    head = adapter.head
    if labels is not None and not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
        raise InvalidRequest("labels must be a list of texts", param="labels")
    if head is not None and labels is not None and len(labels) != head.num_labels:
        raise InvalidRequest(
            f"there are {len(labels)} labels, but the head has {head.num_labels} outputs",
            param="labels",
        )
    return adapter


def _members(description: Description, backbone: Backbone, resolve: Resolve | None, depth: int) -> list[Adapter]:
    """The stored adapters that one is made of. A content cannot name itself, so there are no circles."""
    if resolve is None:
        raise InvalidRequest("the adapter is made of stored ones, and there is no store here", param="members")
    if depth >= _DEPTH:
        raise InvalidRequest(f"compositions are nested deeper than {_DEPTH}", param="members")
    kind = description.answers if description.head is None else None
    return [_read(resolve(sha), backbone, resolve, kind, depth + 1) for sha in description.members]


def _kind(description: Description) -> KindName | None:
    """What our own description, beside a library's files, says that they are for. Raises InvalidRequest."""
    found = description.task.get("kind")
    if found is None or found in KINDS:
        return found
    raise InvalidRequest(
        f"{own_names.FILE}: task.kind is {short_repr(found)}; these are: {', '.join(KINDS)}", param="kind"
    )


def _read_library(folder: Path, weights: list[str], backbone: Backbone, kind: KindName | None) -> Adapter:
    """An adapter in another library's files, with what the tokenizer's and the model's files beside it say."""
    config = read_model_config(folder)
    beside = Beside(config.architecture, sentence_transformers.is_folder(folder), kind)
    adapter = with_model_config(_read_files(folder, weights, backbone, beside), config, kind)
    return with_tokenizer_files(adapter.as_kind(kind, backbone), folder, backbone)


def _read_files(folder: Path, weights: list[str], backbone: Backbone, beside: Beside) -> Adapter:
    if is_setup(folder):
        _refuse_strangers(folder, weights, setup_weights(folder))
        return read_setup(folder, backbone)
    if not (folder / "adapter_config.json").is_file():
        present = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "no file"
        raise InvalidRequest(
            f"no adapter_config.json and no manyhats.json among the adapter's files ({present})",
            param="files",
        )
    config = read_json(folder / "adapter_config.json")
    if "peft_type" in config:
        _refuse_strangers(folder, weights, WEIGHT_FILES)
        return peft.read(folder, config, backbone, beside)
    if adapterhub.is_adapter(config):
        with_head = (folder / adapterhub_names.HEAD_CONFIG).exists()
        _refuse_strangers(
            folder, weights, (adapterhub_names.WEIGHTS, *((adapterhub_names.HEAD_WEIGHTS,) if with_head else ()))
        )
        return adapterhub.read(folder, config, backbone)
    raise InvalidRequest(
        "adapter_config.json has neither PEFT's 'peft_type' nor AdapterHub's 'config' and 'model_type'",
        param="adapter_config.json",
    )


def _weights(folder: Path, contents: Contents) -> list[str]:
    """The names of the folder's safetensors files. Raises UnsupportedFormat where one is a pickle by its content."""
    names = [contents.place(name) for name in contents.kept if name.lower().endswith(".safetensors")]
    for name in names:
        if looks_like_pickle(folder / name):
            raise UnsupportedFormat(pickle_message(name), param=name)
    return names


def _refuse_strangers(folder: Path, weights: list[str], read: tuple[str, ...]) -> None:
    """Raises InvalidRequest for weights that nothing among the configs speaks of: they would be left out silently."""
    read = (*read, *sorted(sentence_transformers.weight_files(folder)))
    for name in weights:
        if not matches(PurePosixPath(name), read):
            raise InvalidRequest(
                f"'{name}' belongs to no config among the adapter's files; read would be {', '.join(read)}",
                param=name,
            )
