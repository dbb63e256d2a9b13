"""Reads a PEFT adapter: the components of its `peft_type`, further trained parameters, and its head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyhats.core.adapter import Adapter
from manyhats.core.kinds.registry import HEADLESS, check_head
from manyhats.errors import AdapterMismatch
from manyhats.formats.heads import family_head, with_own_kind
from manyhats.formats.kinds import KindHints
from manyhats.formats.peft.config import check_fields, check_type, normalised
from manyhats.formats.peft.kinds import kind_of
from manyhats.formats.peft.weights import open_weights
from manyhats.methods.component import Component
from manyhats.methods.heads import Head, KindName
from manyhats.methods.libraries.fields import text_or_none
from manyhats.methods.libraries.peft import PROMPT_WRAPPER, WRAPPER
from manyhats.methods.libraries.unclaimed import UnclaimedTensors
from manyhats.methods.registry import METHODS

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


def read(folder: Path, config: dict[str, Any], backbone: Backbone, hints: KindHints | None = None) -> Adapter:
    """Reads a PEFT adapter; `hints`: what other files say of its kind.

    Raises InvalidRequest, AdapterMismatch or UnsupportedFormat with the reason.
    """
    config = normalised(config)
    peft_type = check_type(config)
    check_fields(config, peft_type)
    unclaimed = open_weights(folder, prompt=peft_type.prompt)
    warnings = list(unclaimed.warnings)
    hints = hints or KindHints()
    prefix = PROMPT_WRAPPER if peft_type.prompt else WRAPPER
    kind = kind_of(unclaimed, config, prefix, backbone, hints, warnings)
    components = peft_type.read(unclaimed, config, backbone)
    head = read_head(unclaimed, kind, prefix, backbone, hints.kind)
    further = (method.claim_additional(unclaimed, backbone) for method in METHODS.values())
    components += [component for component in further if component is not None]
    _check_tied(components, config, backbone)
    unclaimed.check_all_claimed()
    return Adapter(
        components=tuple(components),
        head=head,
        kind=kind if head is None else head.kind,
        matched_tensors=unclaimed.claimed,
        base=text_or_none(config.get("base_model_name_or_path")),
        warnings=tuple(warnings),
    )


def _check_tied(components: Sequence[Component[Any]], config: Mapping[str, Any], backbone: Backbone) -> None:
    """Raises AdapterMismatch where PEFT would adapt both of a tied embedding and output layer, and the file has only
    one.

    PEFT saves both. A method that adapts both from the tensors of one declares `tied_to_lm_head_ok`.
    """
    head = backbone.vocabulary
    if not config.get("ensure_weight_tying") or head is None or not head.tied:
        return
    shared = {backbone.family.word_embeddings, head.output_layer}
    for component in components:
        found = shared & component.tensors.keys()
        if not METHODS[component.method].tied_to_lm_head_ok and len(found) == 1:
            raise AdapterMismatch(
                f"ensure_weight_tying is set, but the file adapts '{min(found)}' alone, and not "
                f"'{min(shared - found)}', which shares its weight",
                param="ensure_weight_tying",
            )


def read_head(
    unclaimed: UnclaimedTensors, kind: KindName, prefix: str, backbone: Backbone, declared: KindName | None = None
) -> Head | None:
    """The head of an adapter of that kind; None for a kind without. `declared`: the kind stated at the upload.

    Raises AdapterMismatch where the file lacks the head, or it does not fit.
    """
    if kind in HEADLESS:
        return None
    head = family_head(unclaimed, prefix, kind, backbone)
    if head is None:
        raise AdapterMismatch(
            f"an adapter of kind '{kind}' has a head, but the file has no classifier (train with modules_to_save)",
            param="task_type",
        )
    check_head(head, backbone)
    return with_own_kind(head, declared)
