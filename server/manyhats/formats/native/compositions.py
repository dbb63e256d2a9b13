"""Adapters that are made of stored ones, which they name by their sha256 and do not copy.

fusion   attention over the members' outputs (Pfeiffer et al. 2021)
stack    one member after another (MAD-X, Pfeiffer et al. 2020)
average  the members' outputs, weighted
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from manyhats.core.adapter import Adapter
from manyhats.core.kinds.registry import KINDS
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.formats.native.description import Description
from manyhats.formats.native.names import WEIGHTS
from manyhats.formats.native.reader import read_head
from manyhats.formats.wrappers import open_tensors
from manyhats.methods.average import average_of
from manyhats.methods.bottleneck import BottleneckConfig
from manyhats.methods.component import Component
from manyhats.methods.fusion import fuse
from manyhats.methods.heads import KindName
from manyhats.methods.libraries.unclaimed import UnclaimedTensors, claim_leaves
from manyhats.methods.lora import LoraConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manyhats.backbone import Backbone


def compose(folder: Path, description: Description, backbone: Backbone, members: Sequence[Adapter]) -> Adapter:
    """One adapter of its members. The head is the file's own, else the last member's that has one.

    Raises AdapterMismatch where the members cannot be put together so.
    """
    has_weights = (folder / WEIGHTS).exists()
    if not has_weights and (description.head is not None or description.format == "manyhats-fusion/1"):
        raise InvalidRequest(f"the adapter has no {WEIGHTS}", param=WEIGHTS)
    unclaimed = open_tensors(folder / WEIGHTS) if has_weights else UnclaimedTensors({}, WEIGHTS)
    head = read_head(unclaimed, description)
    match description.format:
        case "manyhats-fusion/1":
            parts = [_fusion(unclaimed, description, backbone, members)]
        case "manyhats-stack/1":
            parts = [part for member in members for part in member.components]
        case _:
            weights = description.weights or [1 / len(members)] * len(members)
            parts = [_average(members, weights)]
    unclaimed.check_all_claimed()
    # Whose output it is, and with it the settings: the last member that brings a head, or a way to embed.
    kind = _kind(description, members)
    embeds = KINDS[kind].ends_in_states
    outputs = (m for m in reversed(members) if m.head is not None or (embeds and m.projection is not None))
    wearer = None if head is not None else next(outputs, None)
    if wearer is not None:
        head = wearer.head
    inherited = {} if wearer is None else dict(wearer.settings)
    references = {*description.members, *(sha for member in members for sha in member.references)}
    return Adapter(
        components=tuple(parts),
        head=head,
        kind=kind if head is None else head.kind,
        projection=None if wearer is None else wearer.projection,
        matched_tensors=unclaimed.claimed + sum(member.matched_tensors for member in members),
        base=description.base_model_name_or_path or members[0].base,
        settings=inherited | description.task,
        warnings=(*unclaimed.warnings, *(warning for member in members for warning in member.warnings)),
        references=tuple(sorted(references)),
    )


def _single(member: Adapter, sha: str, what: str) -> Component[Any]:
    if len(member.components) != 1:
        raise AdapterMismatch(
            f"the member {sha[:12]} has {len(member.components)} parts, and cannot be {what}", param=sha
        )
    return member.components[0]


def _fusion(
    unclaimed: UnclaimedTensors, description: Description, backbone: Backbone, members: Sequence[Adapter]
) -> Component[Any]:
    def place(name: str) -> tuple[str, str] | None:
        site = next((site for site in backbone.residual if name.startswith(f"{site}.")), None)
        return None if site is None else (site, name.removeprefix(f"{site}."))

    layers = claim_leaves(unclaimed, place)
    parts: list[Component[Any]] = []
    for member, sha in zip(members, description.members, strict=True):
        part = _single(member, sha, "fused")
        if not isinstance(part.config, BottleneckConfig):
            raise AdapterMismatch(
                f"the member {sha[:12]} is a {part.method}; bottleneck adapters can be fused", param=sha
            )
        if strange := [site for site in part.tensors if site not in layers]:
            raise AdapterMismatch(f"the member {sha[:12]} acts at {strange[0]}, where the fusion does not", param=sha)
        parts.append(part)
    return fuse(parts, layers, description.fusion)


def _average(members: Sequence[Adapter], weights: Sequence[float]) -> Component[Any]:
    parts = [_single(member, "", "averaged") for member in members]
    methods = {part.method for part in parts}
    if methods == {"lora"}:
        return weighted_loras(parts, weights)
    if methods != {"bottleneck"}:
        raise AdapterMismatch(
            f"adapters of the methods {', '.join(sorted(methods))} cannot be averaged; LoRAs can, and bottleneck "
            "adapters",
            param="members",
        )
    return average_of(parts, weights)


def weighted_loras(parts: Sequence[Component[Any]], weights: Sequence[float]) -> Component[Any]:
    """sum_i w_i s_i B_i A_i as one LoRA: the A stand one below the other, the B beside each other."""
    downs: dict[str, list[Tensor]] = {}
    ups: dict[str, list[Tensor]] = {}
    for part, weight in zip(parts, weights, strict=True):
        assert isinstance(part.config, LoraConfig)
        for site, leaves in part.tensors.items():
            if set(leaves) != {"A", "B"}:
                raise AdapterMismatch(
                    f"a LoRA with {', '.join(sorted(leaves))} at {site} cannot be averaged", param=site
                )
            downs.setdefault(site, []).append(leaves["A"].float())
            ups.setdefault(site, []).append(leaves["B"].float() * (weight * part.config.scales[site]))
    tensors = {site: {"A": torch.cat(downs[site]), "B": torch.cat(ups[site], dim=1)} for site in downs}
    return replace(parts[0], config=LoraConfig(scales=dict.fromkeys(tensors, 1.0)), tensors=tensors)


def _kind(description: Description, members: Sequence[Adapter]) -> KindName:
    """What it says that it is for, or else what its last member is for."""
    return description.answers if "answers" in description.model_fields_set else members[-1].kind
