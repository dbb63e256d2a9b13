"""What a format of adapter folders is: the files that it knows, and how an adapter is found, read and written in it.

A new format is a module (or a folder) with a subclass of `Format`, and a line in `formats.registry`. The module that
the registry imports must not load torch, which clients that only pick the files of an upload may not have: what reads
and writes is imported in the methods that do so.
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

    `marks`: files that say that a folder holds such a setup. `inner_marks`: files that say so of the folder around
    their own. `member_marks`: files that say that a folder is one of a setup's.
    """

    marks: frozenset[str]
    inner_marks: frozenset[str]
    member_marks: frozenset[str]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What reading an adapter may need besides its own folder.

    `hints`: what the files beside it say that it is for. `read_stored`: reads the stored adapter of a sha256, for one
    that is made of others, as one of a kind where that is given; it raises InvalidRequest where there is no store, or
    adapters are made of each other too deeply.
    """

    hints: KindHints
    read_stored: Callable[[str, KindName | None], Adapter]


class KnownFiles:
    """What is known of files by their names alone, relative to the adapter's folder.

    `files`: patterns of all that is read, of which `weight_files` are the weights. `pickled`: the names of weights that
    are pickles, each with the name that it has as safetensors; None where such weights are not read in any form.
    `marks`: the files that say that a folder holds an adapter.
    """

    files: ClassVar[Sequence[str]]
    weight_files: ClassVar[Sequence[str]] = ()
    pickled: ClassVar[Mapping[str, str | None]] = {}
    marks: ClassVar[Sequence[str]] = ()


class Format(KnownFiles, ABC):
    """One format of adapter folders. Stateless: one instance serves all.

    `config`: the file that an adapter begins with. `telltale`: what is in that file in this format alone, in words for
    a message; empty where the file's name says enough. `complete`: its own files say all that is to be known of the
    task, so that a model's and a tokenizer's files beside them are not read, and none is written.
    """

    name: ClassVar[str]
    config: ClassVar[str]
    telltale: ClassVar[str] = ""
    complete: ClassVar[bool] = False
    setup: ClassVar[SetupFiles | None] = None

    @abstractmethod
    def detect(self, folder: Path) -> bool:
        """Whether the folder holds an adapter in this format. Raises InvalidRequest for a damaged config."""

    def expected_weights(self, folder: Path) -> Sequence[str]:
        """Patterns of the weights that the folder's configs speak of. No other weights may lie there."""
        return self.weight_files

    @abstractmethod
    def read(self, folder: Path, backbone: Backbone, around: Surroundings) -> Adapter:
        """Reads a folder that was detected. Every tensor has been matched to a site.

        Raises InvalidRequest for damaged or incomplete files, AdapterMismatch for what does not fit the backbone or is
        not supported, UnsupportedFormat for weights in a pickle.
        """

    @abstractmethod
    def holds(self, adapter: Adapter, backbone: Backbone) -> bool:
        """Whether files of this format have a place for all that is in the adapter's components."""

    @abstractmethod
    def write(self, adapter: Adapter, folder: Path, backbone: Backbone) -> None:
        """Writes an adapter that it holds into an existing folder. Raises InvalidRequest for a head without a place."""


@dataclass(frozen=True, slots=True)
class Stated:
    """What files beside an adapter say that it is for, before it is read. `embeds`: that it makes vectors of texts."""

    kind: KindName | None = None
    embeds: bool = False


class Companion(KnownFiles, ABC):
    """Files that may lie beside an adapter of any format, and say more of its task. Stateless."""

    @abstractmethod
    def stated(self, folder: Path, backbone: Backbone) -> Stated:
        """What the files say, nothing where there are none. Raises InvalidRequest or AdapterMismatch for wrong ones."""

    def expected_weights(self, folder: Path) -> Collection[str]:
        """The weights that the files speak of, relative to the folder. Raises as `stated` does."""
        return ()

    @abstractmethod
    def read_onto(self, adapter: Adapter, folder: Path, backbone: Backbone, declared: KindName | None) -> Adapter:
        """The adapter with what the files say; as it is where there are none.

        `declared`: what whoever brings it says that it is for. Raises InvalidRequest for damaged or missing files,
        UnsupportedFormat for weights in a pickle, AdapterMismatch for what is not supported or contradicts the adapter.
        """

    def write(self, adapter: Adapter, folder: Path, backbone: Backbone) -> None:
        """Writes what the adapter's own files have no place for, beside a format that is not `complete`."""
        return
