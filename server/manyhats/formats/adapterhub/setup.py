"""Several adapters of AdapterHub that act together: stacks and fusions, each adapter in a folder of its own.

`adapter_setup.json` says how (`save_adapter_setup`); without it a single fusion's folder does
(`save_all_adapters` and `save_all_adapter_fusions`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyhats.core.adapter import Adapter
from manyhats.core.kinds.registry import KINDS
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.formats.adapterhub.heads import HeadFile, read_head, without_head
from manyhats.formats.adapterhub.names import (
    CONFIG,
    FUSION_CONFIG,
    FUSION_WEIGHTS,
    HEAD_CONFIG,
    HEAD_WEIGHTS,
    SETUP,
    WEIGHTS,
)
from manyhats.formats.adapterhub.reader import Weights, check_model_type, read_weights
from manyhats.formats.files import read_json
from manyhats.formats.wrappers import open_tensors
from manyhats.messages import short_repr
from manyhats.methods.component import Component
from manyhats.methods.composition import AdapterHubComposition, Member
from manyhats.methods.registry import COMPOSITIONS

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

_DEPTH = 4  # of compositions within compositions
_COMPOSITIONS = [composition.adapterhub for composition in COMPOSITIONS.values() if composition.adapterhub is not None]


@dataclass(frozen=True, slots=True)
class _Folders:
    """Where the named adapters, fusions and heads of an upload are."""

    adapters: Mapping[str, tuple[Path, dict[str, Any]]]
    fusions: Mapping[str, tuple[Path, dict[str, Any]]]
    heads: Mapping[str, Path]


def is_setup(folder: Path) -> bool:
    """Whether a folder holds adapters in folders of their own."""
    if (folder / SETUP).exists():
        return True
    return not (folder / CONFIG).exists() and any(folder.glob(f"*/{FUSION_CONFIG}"))


def setup_weights(folder: Path) -> tuple[str, ...]:
    """The weight files that belong to the configs in a setup's folders, relative to the folder."""
    wanted = ((CONFIG, WEIGHTS), (FUSION_CONFIG, FUSION_WEIGHTS), (HEAD_CONFIG, HEAD_WEIGHTS))
    return tuple(
        f"{config.parent.name}/{weights}" for name, weights in wanted for config in sorted(folder.glob(f"*/{name}"))
    )


def read_setup(folder: Path, backbone: Backbone) -> Adapter:
    """Reads a stack or a fusion with its members. Raises InvalidRequest or AdapterMismatch with the reason."""
    found = _find(folder)
    warnings: list[str] = []
    head_setup: Any = None
    if (folder / SETUP).exists():
        outer = read_json(folder / SETUP)
        setup, head_setup = outer.get("adapter_setup"), outer.get("head_setup")
    else:
        if len(found.fusions) != 1:
            raise InvalidRequest(
                f"there are {len(found.fusions)} fusions and no {SETUP} that says which acts", param="files"
            )
        (name,) = found.fusions
        setup = {"type": "Fuse", "children": [{"type": "single", "children": [n]} for n in _members(found, name)]}
    composer = _Composer(found, backbone)
    components = composer.components(setup, 0)
    head = _head(found, head_setup, composer, backbone, warnings)
    unused = sorted(set(found.adapters) - set(composer.used))
    if unused:
        raise InvalidRequest(f"the setup does not use the adapter '{unused[0]}' that is among the files", param=SETUP)
    return Adapter(
        components=tuple(components),
        head=head.head,
        kind=head.kind,
        matched_tensors=composer.matched + head.matched,
        base=next((w.base for w in composer.used.values()), None),
        settings=head.settings,
        warnings=(*composer.warnings, *head.warnings, *warnings),
    )


def _find(folder: Path) -> _Folders:
    adapters: dict[str, tuple[Path, dict[str, Any]]] = {}
    fusions: dict[str, tuple[Path, dict[str, Any]]] = {}
    heads: dict[str, Path] = {}
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        known = False
        for file, into in ((CONFIG, adapters), (FUSION_CONFIG, fusions)):
            if (inner / file).exists():
                known = True
                config = read_json(inner / file)
                name = str(config.get("name"))
                if name in into:
                    raise InvalidRequest(f"two folders hold '{name}'", param=inner.name)
                into[name] = inner, config
        if (inner / HEAD_CONFIG).exists():
            known = True
            heads[inner.name] = inner
        if not known:
            raise InvalidRequest(f"the folder '{inner.name}' holds no adapter, fusion or head", param=inner.name)
    return _Folders(adapters, fusions, heads)


def _members(found: _Folders, fusion: str) -> list[str]:
    names = found.fusions[fusion][1].get("adapter_names")
    if not isinstance(names, list):
        names = fusion.split(",")
    return [str(name) for name in names]


class _Composer:
    """Makes components of a setup, reading each adapter once."""

    def __init__(self, found: _Folders, backbone: Backbone) -> None:
        self._found = found
        self._backbone = backbone
        self.used: dict[str, Weights] = {}
        self.matched = 0
        self.warnings: tuple[str, ...] = ()  # about names of tensors

    def components(self, setup: Any, depth: int) -> list[Component[Any]]:
        """The components of one block, in the order in which they act."""
        if depth > _DEPTH:
            raise InvalidRequest(f"{SETUP} is nested deeper than {_DEPTH} compositions", param=SETUP)
        if not isinstance(setup, dict) or not isinstance(setup.get("children"), list) or not setup["children"]:
            raise InvalidRequest(f"{SETUP} holds {short_repr(setup)} where a composition should be", param=SETUP)
        children = setup["children"]
        block = setup.get("type")
        if block == "single":
            return list(self._adapter(str(children[0])).components)
        if block == "Stack":
            return [component for child in children for component in self.components(child, depth + 1)]
        for composition in _COMPOSITIONS:
            if block == composition.block:
                return [self._compose(composition, [self._name(child) for child in children])]
        known = ", ".join(["Stack", *(composition.block for composition in _COMPOSITIONS)])
        raise AdapterMismatch(
            f"the composition {short_repr(block)} is not supported; these are: {known}",
            param="adapter_setup",
        )

    def _name(self, child: Any) -> str:
        if not isinstance(child, dict) or child.get("type") != "single" or len(child.get("children", ())) != 1:
            raise AdapterMismatch(f"a fusion's members must be single adapters, not {short_repr(child)}", param=SETUP)
        return str(child["children"][0])

    def _adapter(self, name: str) -> Weights:
        if name not in self.used:
            if name not in self._found.adapters:
                raise InvalidRequest(f"{SETUP} names the adapter '{name}', which is not among the files", param=name)
            folder, config = self._found.adapters[name]
            self.used[name] = read_weights(folder, config, self._backbone)
            self.matched += self.used[name].matched
            self.warnings += self.used[name].warnings
        return self.used[name]

    def _compose(self, composition: AdapterHubComposition, names: list[str]) -> Component[Any]:
        """A composition with files of its own, which are named after its members."""
        name = ",".join(names)
        if name not in self._found.fusions:
            raise InvalidRequest(f"the fusion '{name}' is not among the files", param=name)
        folder, config = self._found.fusions[name]
        check_model_type(config, self._backbone)
        members = [Member(one, self._adapter(one).components) for one in names]
        unclaimed = open_tensors(folder / FUSION_WEIGHTS)
        component = composition.read(unclaimed, config.get("config"), name, members, self._backbone)
        unclaimed.check_all_claimed()
        self.matched += unclaimed.claimed
        self.warnings += unclaimed.warnings
        return component


def _head(found: _Folders, head_setup: Any, composer: _Composer, backbone: Backbone, warnings: list[str]) -> HeadFile:
    """The head that the setup names; else the language-model head in the members' own files."""
    if head_setup is not None:
        names = head_setup.get("children") if isinstance(head_setup, dict) else [head_setup]
        if not isinstance(names, list) or len(names) != 1 or str(names[0]) not in found.heads:
            raise InvalidRequest(
                f"head_setup {short_repr(head_setup)} names no single head among the files", param=SETUP
            )
        chosen = str(names[0])
        others = sorted(set(found.heads) - {chosen})
        if others:
            warnings.append(f"the heads of {', '.join(others)} are not used; the setup names '{chosen}'")
        return read_head(found.heads[chosen], backbone)
    own = without_head(weights.model_class for weights in composer.used.values())
    if KINDS[own.kind].lm_head:
        heads = [read_head(path, backbone) for path in found.heads.values()]
        return replace(own, matched=sum(head.matched for head in heads))
    if found.heads:
        warnings.append(f"the heads of {', '.join(sorted(found.heads))} are not used; the setup names none")
    return own
