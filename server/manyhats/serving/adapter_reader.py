"""Adapters between the store and the slots: checked as they come, read as they are wanted, bound to the backbone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from manyhats.backbone import Backbone
from manyhats.core.adapter import Adapter
from manyhats.core.history import history_warnings
from manyhats.core.packed_adapter import PackedAdapter
from manyhats.errors import AdapterMismatch
from manyhats.formats.reader import read_adapter
from manyhats.formats.tensor_file import mapped
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.methods.heads import KindName
from manyhats.registry.records import AdapterInfo, Version
from manyhats.registry.registry import Registry
from manyhats.serving.merged import MergedVersion
from manyhats.serving.merged import build as build_merged
from manyhats.serving.named_base import named_base_warnings
from manyhats.serving.task_settings import check_settings

_CARD = "README.md"
_CARD_LIMIT = 64 << 10  # characters


class AdapterReader:
    """Reads adapters for one backbone. `max_rank`: of what is taken into the store. `registry` is set before the first
    is read: it has what adapters of adapters refer to."""

    registry: Registry

    def __init__(self, backbone: Backbone, max_rank: int) -> None:
        self.backbone = backbone
        self.max_rank = max_rank

    def inspect(self, folder: Path, kind: KindName | None = None) -> AdapterInfo:
        """Reads and checks an adapter folder; `kind`: what it is for, where its head allows that.

        Raises what `read_adapter` raises.
        """
        with mapped(folder):  # it is staged: nobody else writes to it
            adapter = read_adapter(folder, self.backbone, self.registry.content, kind)
        if adapter.rank is not None and adapter.rank > self.max_rank:
            raise AdapterMismatch(
                f"the adapter's rank is {adapter.rank}; max_rank allows at most {self.max_rank}", param="rank"
            )
        path = folder / _CARD
        card = path.read_text(encoding="utf-8", errors="replace")[:_CARD_LIMIT] if path.exists() else None
        labels = adapter.settings.get("labels")
        info = AdapterInfo(
            method=adapter.method,
            kind=adapter.kind,
            rank=adapter.rank,
            matched_tensors=adapter.matched_tensors,
            bytes=sum(path.stat().st_size for path in folder.rglob("*.safetensors")),
            base=adapter.base,
            labels=tuple(labels) if labels else None,
            num_labels=adapter.head.num_labels if adapter.head else None,
            card=card,
            settings=dict(adapter.settings),
            warnings=(
                *adapter.warnings,
                *history_warnings(card),
                *named_base_warnings(adapter.base, self.backbone.name),
            ),
            references=adapter.references,
            kinds=adapter.kinds(self.backbone),
        )
        check_settings(adapter.method, adapter.settings, info, self.backbone)
        return info

    def load(self, version: Version) -> Adapter | PackedAdapter:
        """A version's adapter, as it is kept in memory. Raises what `read_adapter` raises, and DamagedStore."""
        return self._read(version).packed(self.backbone)

    def _read(self, version: Version) -> Adapter:
        def read(stored: Version) -> Adapter:
            return self.registry.read(
                stored, lambda files: read_adapter(files, self.backbone, self.registry.content, stored.info.kind)
            )

        if not isinstance(version, MergedVersion):
            return read(version)
        adapter = build_merged(version, read)
        adapter.check(self.backbone)
        return adapter

    def fetch(self, version: Version, then: Callable[[], None], failed: Callable[[BaseException], None]) -> None:
        """Calls `then` when all files that `load` reads are on this machine, or `failed`; without waiting for it."""
        parts = [version]
        if isinstance(version, MergedVersion):
            parts = [*version.members, *([version.head] if version.head is not None else [])]
        self.registry.fetch(parts, then, failed)

    def bind(self, adapter: Adapter | PackedAdapter) -> BoundAdapter:
        """Brings an adapter into a slot."""
        bound = adapter.bind(self.backbone)
        if bound.arrival is not None:  # else the first step with it would wait for its copy, and all others with it
            bound.arrival.wait()
        return bound
