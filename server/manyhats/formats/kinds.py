"""An adapter's kind of task, from its files.

Nothing is guessed: where the files leave it open, the uploader states it by the setting `kind`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from manyhats.core.kinds.base import LibraryNames
from manyhats.core.kinds.registry import KINDS
from manyhats.errors import InvalidRequest
from manyhats.methods.heads import KindName

_NOT_BARE = ("HeadsModel", "AdapterModel")  # these have heads, despite their names
DECLARE = "say what it is for with `kind` in the part `task`"


@dataclass(frozen=True, slots=True)
class KindHints:
    """What companion files and the uploader say of an adapter's kind.

    `architecture`: of its config.json. `embeds`: whether it has sentence-transformers' files. `kind`: stated by the
    uploader, used where the files leave it open.
    """

    architecture: str | None = None
    embeds: bool = False
    kind: KindName | None = None


def kind_of_class(model_class: str) -> KindName | None:
    """The kind of a transformers class; a bare model's is `embed`. None for an unknown class."""
    if model_class.endswith(_NOT_BARE):
        return None
    endings = _first_by_name(lambda libraries: libraries.model_classes)
    longest = max((ending for ending in endings if model_class.endswith(ending)), key=len, default=None)
    return None if longest is None else endings[longest]


def kind_of_problem_type(problem_type: str) -> KindName:
    """The kind of a `problem_type` in transformers' config."""
    return _first_by_name(lambda libraries: libraries.problem_types)[problem_type]


def peft_task_types() -> dict[str, KindName]:
    """The kind of each PEFT `task_type`."""
    return _first_by_name(lambda libraries: () if libraries.peft is None else (libraries.peft,))


def adapterhub_head_types() -> dict[str, KindName]:
    """The kind of each AdapterHub `head_type`."""
    return _first_by_name(lambda libraries: libraries.adapterhub)


def adapterhub_head_type(kind: KindName) -> str:
    """The `head_type` that a head is written with. Raises InvalidRequest where AdapterHub has none."""
    names = KINDS[kind].libraries.adapterhub
    if not names:
        raise InvalidRequest(f"AdapterHub has no head for tasks of kind '{kind}'", param="kind")
    return names[0]


def _first_by_name(names: Callable[[LibraryNames], Iterable[str]]) -> dict[str, KindName]:
    """A library's names, each with the first kind that has it."""
    found: dict[str, KindName] = {}
    for kind in KINDS.values():
        for name in names(kind.libraries):
            found.setdefault(name, kind.name)
    return found
