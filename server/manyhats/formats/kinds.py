"""What an adapter is for, by what its files say.

Nothing is guessed in silence: where the files leave it open, whoever uploads says it by the setting `kind`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from manyhats.core.kinds.base import LibraryNames
from manyhats.core.kinds.registry import KINDS
from manyhats.errors import InvalidRequest
from manyhats.methods.heads import KindName

_NOT_BARE = ("HeadsModel", "AdapterModel")  # these have heads, though they are called models
DECLARE = "say what it is for with `kind` in the part `task`"


@dataclass(frozen=True, slots=True)
class KindHints:
    """What lies beside an adapter and may say what it is for.

    `architecture`: of its config.json. `embeds`: sentence-transformers' files say so. `kind`: what the uploader says,
    which holds where the files leave it open.
    """

    architecture: str | None = None
    embeds: bool = False
    kind: KindName | None = None


def kind_of_class(model_class: str) -> KindName | None:
    """What a class of transformers is for: a bare model gives its states. None for one that is not known."""
    if model_class.endswith(_NOT_BARE):
        return None
    endings = _first_by_name(lambda libraries: libraries.model_classes)
    longest = max((ending for ending in endings if model_class.endswith(ending)), key=len, default=None)
    return None if longest is None else endings[longest]


def kind_of_problem_type(problem_type: str) -> KindName:
    """What a `problem_type` of transformers' config is for."""
    return _first_by_name(lambda libraries: libraries.problem_types)[problem_type]


def peft_task_types() -> dict[str, KindName]:
    """What each `task_type` of PEFT's is read as."""
    return _first_by_name(lambda libraries: () if libraries.peft is None else (libraries.peft,))


def adapterhub_head_types() -> dict[str, KindName]:
    """What each `head_type` of AdapterHub's is read as."""
    return _first_by_name(lambda libraries: libraries.adapterhub)


def adapterhub_head_type(kind: KindName) -> str:
    """The `head_type` that a head is written with. Raises InvalidRequest where AdapterHub has none."""
    names = KINDS[kind].libraries.adapterhub
    if not names:
        raise InvalidRequest(f"AdapterHub has no head for tasks of kind '{kind}'", param="kind")
    return names[0]


def _first_by_name(names: Callable[[LibraryNames], Iterable[str]]) -> dict[str, KindName]:
    """A library's names, each with the first kind that is called so."""
    found: dict[str, KindName] = {}
    for kind in KINDS.values():
        for name in names(kind.libraries):
            found.setdefault(name, kind.name)
    return found
