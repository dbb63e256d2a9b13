"""Reads a PEFT adapter: its method, what was trained beside it, and its head."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyhats.errors import AdapterMismatch
from manyhats.formats.files import Remaining, shown, text_or_none
from manyhats.formats.heads import family_head, with_own_kind
from manyhats.formats.peft.config import check_fields, check_type, normalised
from manyhats.formats.peft.lora import adalora_part, lora_part, vera_part
from manyhats.formats.peft.names import PROMPT_WRAPPER, WRAPPER
from manyhats.formats.peft.others import (
    beft_part,
    ia3_part,
    ln_part,
    shira_part,
    table_part,
    token_rows_part,
    whole_parameters,
)
from manyhats.formats.peft.prompts import prefix_part, prompt_part
from manyhats.formats.peft.weights import open_weights
from manyhats.methods.adapter import Adapter
from manyhats.methods.base import Part
from manyhats.methods.heads import HEADLESS, Head, Kind

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

_TASK_KINDS: dict[str, Kind] = {
    "SEQ_CLS": "classify",
    "TOKEN_CLS": "tokens",
    "QUESTION_ANS": "span",
    "FEATURE_EXTRACTION": "embed",
    "CAUSAL_LM": "generate",
}
_CLASS_KINDS: dict[str, Kind] = {
    "TokenClassification": "tokens",
    "QuestionAnswering": "span",
    "ForCausalLM": "generate",
    "LMHeadModel": "generate",
    "ForMaskedLM": "fill",
}
_PROMPTS = {"PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING"}


def read(folder: Path, config: dict[str, Any], backbone: Backbone) -> Adapter:
    """Reads a PEFT adapter. Raises InvalidRequest, AdapterMismatch or UnsupportedFormat with the reason."""
    config = normalised(config)
    peft_type = check_type(config)
    check_fields(config, peft_type, backbone)
    remaining = open_weights(folder, prompt=peft_type in _PROMPTS)
    warnings = list(remaining.warnings)
    parts = [_part(remaining, peft_type, config, backbone)]
    table = table_part(remaining, parts[0], backbone) if peft_type == "LORA" else None
    if table is not None:
        parts.insert(0, table)  # what a LoRA adds to an embedding is added to this one
    if peft_type == "LORA" and config.get("trainable_token_indices"):
        rows = token_rows_part(remaining, config["trainable_token_indices"], backbone)
        if rows is None:
            raise AdapterMismatch("the file has no 'trainable_tokens_delta'", param="trainable_token_indices")
        parts.append(rows)
    prefix = PROMPT_WRAPPER if peft_type in _PROMPTS else WRAPPER
    kind, head = kind_and_head(remaining, config, prefix, backbone, warnings)
    others = whole_parameters(remaining, backbone)
    if others is not None:
        parts.append(others)
    remaining.done()
    return Adapter(
        parts=tuple(parts),
        head=head,
        kind=kind,
        matched_tensors=remaining.taken,
        base=text_or_none(config.get("base_model_name_or_path")),
        warnings=tuple(warnings),
    )


def _part(remaining: Remaining, peft_type: str, config: dict[str, Any], backbone: Backbone) -> Part:
    match peft_type:
        case "LORA":
            return lora_part(remaining, config, backbone)
        case "ADALORA":
            return adalora_part(remaining, config, backbone)
        case "VERA":
            return vera_part(remaining, config, backbone)
        case "IA3":
            return ia3_part(remaining, backbone)
        case "LN_TUNING":
            return ln_part(remaining, backbone)
        case "BEFT":
            return beft_part(remaining, backbone)
        case "SHIRA":
            return shira_part(remaining, backbone)
        case "TRAINABLE_TOKENS":
            part = token_rows_part(remaining, config.get("token_indices"), backbone)
            if part is None:
                raise AdapterMismatch("the file has no 'trainable_tokens_delta'", param="token_indices")
            return part
        case "PREFIX_TUNING":
            return prefix_part(remaining, config, backbone)
        case _:
            return prompt_part(remaining, config, backbone)


def kind_and_head(
    remaining: Remaining, config: dict[str, Any], prefix: str, backbone: Backbone, warnings: list[str]
) -> tuple[Kind, Head | None]:
    """What the adapter is for, by `task_type` or else by its head. Raises AdapterMismatch where neither tells."""
    task_type = config.get("task_type")
    kind: Kind
    if task_type is not None:
        if not isinstance(task_type, str) or task_type not in _TASK_KINDS:
            raise AdapterMismatch(
                f"task_type {shown(task_type)} is not served here; these are: {', '.join(_TASK_KINDS)}",
                param="task_type",
            )
        kind = _TASK_KINDS[task_type]
    else:
        kind = _guessed(remaining, config, warnings)
    if kind in HEADLESS:
        return kind, None
    head = family_head(remaining, prefix, kind, backbone)
    if head is None:
        raise AdapterMismatch(
            f"task_type is {task_type}, but the file has no classifier (train with modules_to_save)",
            param="task_type",
        )
    head.check(backbone)
    head = with_own_kind(head)
    return head.kind, head


def _guessed(remaining: Remaining, config: dict[str, Any], warnings: list[str]) -> Kind:
    """The kind of a file that names no task_type."""
    mapping = config.get("auto_mapping")
    model_class = str(mapping.get("base_model_class", "")) if isinstance(mapping, dict) else ""
    for part, kind in _CLASS_KINDS.items():
        if part in model_class:
            return kind
    names = remaining.names()
    if any("qa_outputs" in name for name in names):
        return "span"
    if not any("classifier" in name or "score" in name for name in names):
        return "embed"
    if not model_class:
        warnings.append("the file names no task_type; its head is taken for sequence classification")
    return "classify"
