"""The bare backbone as a task, without an adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manyhats.backbone import Backbone
from manyhats.core.kinds.registry import KINDS, headless_kinds
from manyhats.errors import InvalidRequest
from manyhats.registry.names import BASE
from manyhats.registry.records import AdapterInfo, Version

KIND = "kind"  # the parameter that selects the kind


class BackboneTask:
    """The versions of the task `base`, one for each kind of answer that the backbone gives."""

    def __init__(self, backbone: Backbone) -> None:
        kinds = headless_kinds(backbone)
        self._default = next((kind for kind in kinds if KINDS[kind].generates), kinds[0])
        self._versions = {kind: _version(backbone, kind) for kind in kinds}

    @property
    def version(self) -> Version:
        """The default version: `generate` where the backbone supports it, else `embed`."""
        return self._versions[self._default]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of answer that the backbone gives."""
        return tuple(self._versions)

    def open(self, given: Mapping[str, Any], kinds: Sequence[str] = ()) -> tuple[Version, Mapping[str, Any]]:
        """The version that the parameters select, else the first of `kinds`, and the parameters without `kind`.

        Raises InvalidRequest for an unknown kind.
        """
        wanted = given.get(KIND)
        if wanted is None and (understood := next((kind for kind in kinds if kind in self._versions), None)):
            return self._versions[understood], given
        if wanted is None:
            implied = (own for kind, own in self._versions.items() if KINDS[kind].bare_parameters & given.keys())
            return next(implied, self.version), given
        if wanted not in self._versions:
            raise InvalidRequest(
                f"the bare backbone has no kind {wanted!r}; it has {', '.join(self._versions)}",
                param=f"parameters.{KIND}",
            )
        return self._versions[wanted], {name: value for name, value in given.items() if name != KIND}


def _version(backbone: Backbone, kind: str) -> Version:
    info = AdapterInfo(
        method="base",
        kind=kind,
        rank=None,
        matched_tensors=0,
        bytes=0,
        base=backbone.name,
        labels=None,
        card=None,
        settings={},
    )
    return Version(task=BASE, number=0, sha256=backbone.sha256, info=info, created=0.0)
