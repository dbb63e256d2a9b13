"""Reads a PEFT adapter: its method, what was trained beside it, and its head."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyhats.core.adapter import Adapter
from manyhats.core.kinds.registry import HEADLESS, check_head
from manyhats.errors import AdapterMismatch
from manyhats.formats.heads import family_head, with_own_kind
from manyhats.formats.kinds import Beside
from manyhats.formats.peft.config import check_fields, check_type, normalised
from manyhats.formats.peft.kinds import kind_of
from manyhats.formats.peft.lora import adalora_part, lora_part, vera_part
from manyhats.formats.peft.misc import (
    beft_part,
    check_tied,
    ia3_part,
    ln_part,
    shira_part,
    table_part,
    token_rows_part,
    whole_parameters,
)
from manyhats.formats.peft.prompts import prefix_part, prompt_part
from manyhats.formats.peft.weights import open_weights
from manyhats.methods.component import Component
from manyhats.methods.heads import Head, KindName
from manyhats.methods.libraries.fields import text_or_none
from manyhats.methods.libraries.peft import PROMPT_WRAPPER, WRAPPER
from manyhats.methods.libraries.unclaimed import UnclaimedTensors

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

_PROMPTS = {"PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING"}


def read(folder: Path, config: dict[str, Any], backbone: Backbone, beside: Beside | None = None) -> Adapter:
    """Reads a PEFT adapter; `beside`: what lies beside it and says what it is for.

    Raises InvalidRequest, AdapterMismatch or UnsupportedFormat with the reason.
    """
    config = normalised(config)
    peft_type = check_type(config)
    check_fields(config, peft_type, backbone)
    unclaimed = open_weights(folder, prompt=peft_type in _PROMPTS)
    warnings = list(unclaimed.warnings)
    beside = beside or Beside()
    prefix = PROMPT_WRAPPER if peft_type in _PROMPTS else WRAPPER
    kind = kind_of(unclaimed, config, prefix, backbone, beside, warnings)
    parts = [_part(unclaimed, peft_type, config, backbone)]
    table = table_part(unclaimed, parts[0], backbone) if peft_type == "LORA" else None
    if table is not None:
        parts.insert(0, table)  # what a LoRA adds to an embedding is added to this one
    if peft_type == "LORA" and config.get("trainable_token_indices"):
        rows = token_rows_part(unclaimed, config["trainable_token_indices"], backbone)
        if rows is None:
            raise AdapterMismatch("the file has no 'trainable_tokens_delta'", param="trainable_token_indices")
        parts.append(rows)
    head = read_head(unclaimed, kind, prefix, backbone, beside.kind)
    others = whole_parameters(unclaimed, backbone)
    if others is not None:
        parts.append(others)
    check_tied(parts, config, backbone)
    unclaimed.check_all_claimed()
    return Adapter(
        components=tuple(parts),
        head=head,
        kind=kind if head is None else head.kind,
        matched_tensors=unclaimed.claimed,
        base=text_or_none(config.get("base_model_name_or_path")),
        warnings=tuple(warnings),
    )


def _part(unclaimed: UnclaimedTensors, peft_type: str, config: dict[str, Any], backbone: Backbone) -> Component[Any]:
    match peft_type:
        case "LORA":
            return lora_part(unclaimed, config, backbone)
        case "ADALORA":
            return adalora_part(unclaimed, config, backbone)
        case "VERA":
            return vera_part(unclaimed, config, backbone)
        case "IA3":
            return ia3_part(unclaimed, backbone)
        case "LN_TUNING":
            return ln_part(unclaimed, backbone)
        case "BEFT":
            return beft_part(unclaimed, backbone)
        case "SHIRA":
            return shira_part(unclaimed, backbone)
        case "TRAINABLE_TOKENS":
            part = token_rows_part(unclaimed, config.get("token_indices"), backbone)
            if part is None:
                raise AdapterMismatch("the file has no 'trainable_tokens_delta'", param="token_indices")
            return part
        case "PREFIX_TUNING":
            return prefix_part(unclaimed, config, backbone)
        case _:
            return prompt_part(unclaimed, config, backbone)


def read_head(
    unclaimed: UnclaimedTensors, kind: KindName, prefix: str, backbone: Backbone, asked: KindName | None = None
) -> Head | None:
    """The head of an adapter of that kind; None for a kind without. `asked`: the kind that the uploader says.

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
    return with_own_kind(head, asked)
