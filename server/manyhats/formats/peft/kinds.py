"""A PEFT adapter's kind: from its task type, its model's class, its head, other files, its backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from manyhats.core.kinds.registry import HEADLESS, KINDS, headless_kinds
from manyhats.errors import AdapterMismatch
from manyhats.formats.kinds import DECLARE, KindHints, kind_of_class, peft_task_types
from manyhats.messages import short_repr
from manyhats.methods.heads import KindName
from manyhats.methods.libraries.peft import WRAPPER
from manyhats.methods.libraries.unclaimed import UnclaimedTensors

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

_TASK_TYPES = peft_task_types()
_OVER_TEXT, _OVER_TOKENS = _TASK_TYPES["SEQ_CLS"], _TASK_TYPES["TOKEN_CLS"]
_HEADS = ("classifier.weight", "score.weight", "classifier.out_proj.weight")  # endings of the names of heads' layers
_UNTYPED = "adapter_config.json names no task_type"


def kind_of(
    unclaimed: UnclaimedTensors,
    config: Mapping[str, Any],
    prefix: str,
    backbone: Backbone,
    hints: KindHints,
    warnings: list[str],
) -> KindName:
    """The adapter's kind: by `task_type`, else its model's class, its head, other files, its backbone.

    `unclaimed`: all tensors of the file; `prefix`: of the names of a head's tensors. Raises AdapterMismatch where
    the kind is unknown or not supported.
    """
    task_type = config.get("task_type")
    if task_type is not None:
        if not isinstance(task_type, str) or task_type not in _TASK_TYPES:
            raise AdapterMismatch(
                f"task_type {short_repr(task_type)} is not supported; these are: {', '.join(_TASK_TYPES)}",
                param="task_type",
            )
        return _TASK_TYPES[task_type]
    mapping = config.get("auto_mapping")
    model_class = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    if isinstance(model_class, str) and model_class:
        found = kind_of_class(model_class) or hints.kind
        if found is None:
            raise AdapterMismatch(
                f"{_UNTYPED}, and what a {short_repr(model_class)} is for is not known; {DECLARE}", param="task_type"
            )
        return found
    return _by_head(unclaimed, prefix, backbone, hints, warnings) or _headless(unclaimed, backbone, hints, warnings)


def _by_head(
    unclaimed: UnclaimedTensors, prefix: str, backbone: Backbone, hints: KindHints, warnings: list[str]
) -> KindName | None:
    """The kind that the head's tensors imply; None without a head."""
    names = unclaimed.names()
    if any("qa_outputs" in name for name in names):
        return _TASK_TYPES["QUESTION_ANS"]
    if not any(name.endswith(_HEADS) for name in names):
        return None
    layout, token_layer = backbone.task_heads.classification, backbone.task_heads.tokens
    fits: list[KindName] = []
    if layout is not None and all(f"{prefix}{layer}.weight" in names for layer in layout.linears):
        fits.append(_OVER_TEXT)
    if f"{prefix}{token_layer}.weight" in names and (layout is None or len(layout.linears) == 1 or not fits):
        fits.append(_OVER_TOKENS)  # unless the head over a text has more layers, which tells them apart
    last = unclaimed.peek(f"{prefix}{token_layer}.weight")
    if len(fits) == 2 and last is not None and last.dim() and last.shape[0] == 1:
        fits = [_OVER_TEXT]  # a single label for each token would be meaningless
    over_text = hints.kind is not None and KINDS[hints.kind].over_text
    declared = _OVER_TEXT if over_text else hints.kind
    if declared in fits:
        return declared
    by_config = kind_of_class(hints.architecture) if hints.architecture else None
    if len(fits) == 2 and by_config not in fits:
        raise AdapterMismatch(
            f"{_UNTYPED}, and its head may be one over a whole text or over each token; {DECLARE}: {' or '.join(fits)}",
            param="kind",
        )
    found = _OVER_TEXT if not fits else fits[0] if len(fits) == 1 or by_config is None else by_config
    over = "a whole text" if KINDS[found].over_text else "each token"
    warnings.append(f"{_UNTYPED}; its head is taken for one over {over}")
    return found


def _headless(unclaimed: UnclaimedTensors, backbone: Backbone, hints: KindHints, warnings: list[str]) -> KindName:
    """The kind of an adapter without a head."""
    if hints.kind in HEADLESS:
        return hints.kind
    if hints.embeds:
        return _TASK_TYPES["FEATURE_EXTRACTION"]
    names = [name.removeprefix(WRAPPER) for name in unclaimed.names() if name.startswith(WRAPPER)]
    layers = tuple(f"{part}." for part in backbone.vocabulary.parts if part) if backbone.vocabulary else ()
    headed = any(name.startswith(layers) for name in names) if layers else False
    bare = bool(names) and not headed and not any(name.startswith(f"{backbone.prefix}.") for name in names)
    if backbone.has_language_model and not bare:
        warnings.append(f"{_UNTYPED}; it is taken for one that generates, as its backbone does")
        return _TASK_TYPES["CAUSAL_LM"]
    why = "its tensors are those of a model without a head" if bare else "it has no head"
    raise AdapterMismatch(
        f"{_UNTYPED}, {why}, and nothing tells what it is for; {DECLARE}: {' or '.join(headless_kinds(backbone))}"
        " (or save it with PEFT's task_type, as FEATURE_EXTRACTION)",
        param="kind",
    )
