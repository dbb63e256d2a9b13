"""What a format of adapter folders is: its file names, and how an adapter is detected, read and written in it.

A new format is a module (or a folder) with a subclass of `Format`, and a line in `formats.registry`. The module that
the registry imports must not load torch, which clients that only select the files of an upload may lack: readers and
writers are imported in the methods that use them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from manyhats.backbone import Backbone
    from manyhats.core.adapter import Adapter
    from manyhats.formats.kinds import KindHints
    from manyhats.methods.heads import KindName


@dataclass(frozen=True, slots=True)
class SetupFiles:
    """Several adapters that act together, each in a folder of its own.

    `marks`: files by which a folder is detected as such a setup. `inner_marks`: files by which the parent of their
    folder is. `member_marks`: files by which a folder is detected as one of a setup's.
    """

    marks: frozenset[str]
    inner_marks: frozenset[str]
    member_marks: frozenset[str]


@dataclass(frozen=True, slots=True)
class ReadContext:
    """What reading an adapter may need besides its folder.

    `hints`: what other files say about its kind. `read_stored`: reads the stored adapter with a sha256, as one of a
    kind where that is given, for an adapter composed of others; it raises InvalidRequest where there is no store, or
    compositions are nested too deeply.
    """

    hints: KindHints
    read_stored: Callable[[str, KindName | None], Adapter]


class KnownFiles:
    """The files of a format by name, relative to the adapter's folder.

    `files`: patterns of all files that are read, of which `weight_files` are the weights. `pickled`: the names of
    weights in pickles, each with the name as safetensors; None where they are not supported in any form. `marks`: the
    files by which a folder is detected as an adapter's.
    """

    files: ClassVar[Sequence[str]]
    weight_files: ClassVar[Sequence[str]] = ()
    pickled: ClassVar[Mapping[str, str | None]] = {}
    marks: ClassVar[Sequence[str]] = ()


class Format(KnownFiles, ABC):
    """One format of adapter folders. Stateless: one instance for all adapters.

    `config`: the file with an adapter's config. `distinguishing`: what that file holds only in this format, in words
    for a message; empty where its name identifies the format. `complete`: its own files describe the whole task, so
    that the files of companions are neither read nor written.
    """

    name: ClassVar[str]
    config: ClassVar[str]
    distinguishing: ClassVar[str] = ""
    complete: ClassVar[bool] = False
    setup: ClassVar[SetupFiles | None] = None

    @abstractmethod
    def detect(self, folder: Path) -> bool:
        """Whether the folder holds an adapter in this format. Raises InvalidRequest for a damaged config."""

    def expected_weights(self, folder: Path) -> Sequence[str]:
        """Patterns of the weight files that the folder's configs refer to. Others are rejected."""
        return self.weight_files

    @abstractmethod
    def read(self, folder: Path, backbone: Backbone, context: ReadContext) -> Adapter:
        """Reads a folder that was detected. Every tensor has been matched to a site.

        Raises InvalidRequest for damaged or incomplete files, AdapterMismatch for what does not fit the backbone or is
        not supported, UnsupportedFormat for weights in a pickle.
        """

    @abstractmethod
    def holds(self, adapter: Adapter, backbone: Backbone) -> bool:
        """Whether this format can store all of the adapter's components."""

    @abstractmethod
    def write(self, adapter: Adapter, folder: Path, backbone: Backbone) -> None:
        """Writes an adapter that it holds into an existing folder. Raises InvalidRequest for a head that it cannot
        store."""


@dataclass(frozen=True, slots=True)
class Stated:
    """What companion files say of an adapter's kind, before it is read. `embeds`: that it computes embeddings."""

    kind: KindName | None = None
    embeds: bool = False


class Companion(KnownFiles, ABC):
    """Files that may accompany an adapter of any format, and describe its task. Stateless."""

    @abstractmethod
    def stated(self, folder: Path, backbone: Backbone) -> Stated:
        """What the files say, nothing where there are none. Raises InvalidRequest or AdapterMismatch for wrong ones."""

    def expected_weights(self, folder: Path) -> Collection[str]:
        """The weight files that the files refer to, relative to the folder. Raises as `stated` does."""
        return ()

    @abstractmethod
    def read_onto(self, adapter: Adapter, folder: Path, backbone: Backbone, declared: KindName | None) -> Adapter:
        """The adapter with what the files say; as it is where there are none.

        `declared`: the kind stated at the upload. Raises InvalidRequest for damaged or missing files,
        UnsupportedFormat for weights in a pickle, AdapterMismatch for what is not supported or contradicts the adapter.
        """

    def write(self, adapter: Adapter, folder: Path, backbone: Backbone) -> None:
        """Writes what the adapter's own files cannot store, for a format that is not `complete`."""
        return
