"""Detects the format of an adapter folder, and reads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from manyhats.core.adapter import Adapter
from manyhats.errors import InvalidRequest, UnsupportedFormat
from manyhats.formats.base import Format, ReadContext
from manyhats.formats.contents import TOKENIZER_FILES, Contents, matches, names_of, select
from manyhats.formats.kinds import KindHints
from manyhats.formats.model_config import read_model_config, with_model_config
from manyhats.formats.pickles import looks_like_pickle, pickle_message
from manyhats.formats.registry import COMPANIONS, FORMATS
from manyhats.formats.tokenizer_files import with_tokenizer_files
from manyhats.methods.heads import KindName

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

Resolve = Callable[[str], Path]
_DEPTH = 4  # of nested compositions


def read_adapter(
    folder: Path, backbone: Backbone, resolve: Resolve | None = None, kind: KindName | None = None
) -> Adapter:
    """Reads and checks an adapter folder: every tensor finite, matched to a site and of the right shape.

    `resolve` finds the folder of a stored adapter by its sha256, for one composed of others. `kind`: stated at the
    upload, used where the head allows it.

    Raises UnsupportedFormat for pickles, InvalidRequest for damaged or incomplete files, AdapterMismatch for an
    adapter that does not fit this backbone.
    """
    return _read(folder, backbone, resolve, kind, 0)


def _read(folder: Path, backbone: Backbone, resolve: Resolve | None, kind: KindName | None, depth: int) -> Adapter:
    contents = select(names_of(folder))
    contents.check()
    folder = folder / contents.root
    weights = _weights(folder, contents)

    def read_stored(sha: str, kind: KindName | None) -> Adapter:
        """An adapter cannot contain its own sha256, so there are no cycles."""
        if resolve is None:
            raise InvalidRequest("the adapter is made of stored ones, and there is no store here", param="members")
        if depth >= _DEPTH:
            raise InvalidRequest(f"compositions are nested deeper than {_DEPTH}", param="members")
        return _read(resolve(sha), backbone, resolve, kind, depth + 1)

    companions = [companion for companion in COMPANIONS if contents.has(companion.files)]
    stated = [companion.stated(folder, backbone) for companion in companions]
    format = _format_of(folder)
    expected = (*format.expected_weights(folder), *(n for c in companions for n in sorted(c.expected_weights(folder))))
    _reject_unexpected(weights, expected)
    if format.complete:
        adapter = format.read(folder, backbone, ReadContext(KindHints(kind=kind), read_stored))
    else:
        known = kind or next((one.kind for one in stated if one.kind is not None), None)
        config = read_model_config(folder)
        hints = KindHints(config.architecture, any(one.embeds for one in stated), known)
        adapter = format.read(folder, backbone, ReadContext(hints, read_stored))
        adapter = with_model_config(adapter.as_kind(known, backbone), config, known)
        if contents.has(TOKENIZER_FILES):
            adapter = with_tokenizer_files(adapter, folder, backbone)
    adapter = adapter.as_kind(kind, backbone)
    for companion in companions:
        adapter = companion.read_onto(adapter, folder, backbone, kind)
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


def _format_of(folder: Path) -> Format:
    """The first that detects the folder. Raises InvalidRequest where none does, or a config is damaged."""
    for format in FORMATS:
        if format.detect(folder):
            return format
    known = tuple(reversed(FORMATS))
    shared = {format.config for format in known if format.distinguishing}
    config = next((name for name in sorted(shared) if (folder / name).is_file()), None)
    if config is None:
        present = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "no file"
        wanted = " and ".join(f"no {name}" for name in dict.fromkeys(format.config for format in known))
        raise InvalidRequest(f"{wanted} among the adapter's files ({present})", param="files")
    distinguishing = " nor ".join(format.distinguishing for format in known if format.config == config)
    raise InvalidRequest(f"{config} has neither {distinguishing}", param=config)


def _weights(folder: Path, contents: Contents) -> list[str]:
    """The names of the folder's safetensors files. Raises UnsupportedFormat where one is a pickle by its content."""
    names = [contents.place(name) for name in contents.kept if name.lower().endswith(".safetensors")]
    for name in names:
        if looks_like_pickle(folder / name):
            raise UnsupportedFormat(pickle_message(name), param=name)
    return names


def _reject_unexpected(weights: list[str], expected: Sequence[str]) -> None:
    """Raises InvalidRequest for weights that no config refers to, which would otherwise be silently ignored."""
    for name in weights:
        if not matches(PurePosixPath(name), expected):
            raise InvalidRequest(
                f"'{name}' belongs to no config among the adapter's files; read would be {', '.join(expected)}",
                param=name,
            )
