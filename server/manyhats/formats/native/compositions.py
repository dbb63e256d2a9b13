"""Adapters composed of stored ones, which they name by sha256 and do not copy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from manyhats.core.adapter import Adapter
from manyhats.core.kinds.registry import KINDS
from manyhats.errors import InvalidRequest
from manyhats.formats.native.description import CommonFields, Description
from manyhats.formats.native.names import WEIGHTS
from manyhats.formats.native.reader import read_head
from manyhats.formats.wrappers import open_tensors
from manyhats.methods.composition import CompositionFields, Member
from manyhats.methods.heads import KindName
from manyhats.methods.libraries.unclaimed import UnclaimedTensors
from manyhats.methods.registry import COMPOSITIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manyhats.backbone import Backbone


def compose(folder: Path, description: Description, backbone: Backbone, members: Sequence[Adapter]) -> Adapter:
    """One adapter of its members, with the file's own head, else that of the last member that has one.

    Raises AdapterMismatch where the members cannot be composed so.
    """
    common, fields = description.common, description.fields
    assert isinstance(fields, CompositionFields)
    composition = COMPOSITIONS[common.format]
    has_weights = (folder / WEIGHTS).exists()
    if not has_weights and (common.head is not None or composition.needs_weights):
        raise InvalidRequest(f"the adapter has no {WEIGHTS}", param=WEIGHTS)
    unclaimed = open_tensors(folder / WEIGHTS) if has_weights else UnclaimedTensors({}, WEIGHTS)
    head = read_head(unclaimed, common.head)
    named = [Member(sha, member.components) for sha, member in zip(fields.members, members, strict=True)]
    components = composition.compose(named, fields, unclaimed, backbone)
    unclaimed.check_all_claimed()
    # The member whose output and settings are used: the last with a head, or with settings of embeddings.
    kind = _kind(common, members)
    embeds = KINDS[kind].ends_in_states
    outputs = (m for m in reversed(members) if m.head is not None or (embeds and m.projection is not None))
    source = None if head is not None else next(outputs, None)
    if source is not None:
        head = source.head
    inherited = {} if source is None else dict(source.settings)
    references = {*fields.members, *(sha for member in members for sha in member.references)}
    return Adapter(
        components=tuple(components),
        head=head,
        kind=kind if head is None else head.kind,
        projection=None if source is None else source.projection,
        matched_tensors=unclaimed.claimed + sum(member.matched_tensors for member in members),
        base=common.base_model_name_or_path or members[0].base,
        settings=inherited | common.task,
        warnings=(*unclaimed.warnings, *(warning for member in members for warning in member.warnings)),
        references=tuple(sorted(references)),
    )


def _kind(common: CommonFields, members: Sequence[Adapter]) -> KindName:
    """Its own kind, else its last member's."""
    return common.answers if "answers" in common.model_fields_set else members[-1].kind
