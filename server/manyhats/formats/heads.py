"""A family's own head, as PEFT's `modules_to_save` and AdapterHub's static heads store it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from manyhats.core.kinds.registry import KINDS, kinds_of_head
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.formats.kinds import kind_of_problem_type
from manyhats.methods.heads import Head, KindName, Layer, Reads
from manyhats.methods.libraries.unclaimed import UnclaimedTensors

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


def family_head(unclaimed: UnclaimedTensors, prefix: str, kind: KindName, backbone: Backbone) -> Head | None:
    """Claims the head's tensors, whose names start with `prefix`; None where there are none.

    Raises InvalidRequest where some of the head's tensors are missing.
    """
    layout, token_layer = backbone.task_heads.classification, backbone.task_heads.tokens
    if layout is None or token_layer is None:
        raise AdapterMismatch(
            f"the head of {backbone.config.model_type} models has a dense layer and a norm that the file does not "
            "hold; an adapter without a head (FEATURE_EXTRACTION) is supported",
            param="task_type",
        )
    names = head_layers(kind, layout.linears, token_layer)
    reads: Reads = layout.reads if KINDS[kind].over_text else "tokens"
    layers: list[Layer] = []
    for i, name in enumerate(names):
        weight = unclaimed.claim_optional(f"{prefix}{name}.weight")
        if weight is None:
            if layers or any(n.startswith(prefix) for n in unclaimed.names() if n.endswith("classifier.weight")):
                raise InvalidRequest(f"the head has no '{prefix}{name}.weight'", param=name)
            return None
        bias = unclaimed.claim_optional(f"{prefix}{name}.bias")
        layers.append(Layer(weight, bias, layout.activation if i + 1 < len(names) else None))
    return Head(kind, reads, tuple(layers))


def head_layers(kind: KindName, over_text: tuple[str, ...], over_tokens: str) -> tuple[str, ...]:
    """transformers' names for the layers of a kind's head. `over_text`, `over_tokens`: those of the family's two
    classifiers."""
    if KINDS[kind].over_text:
        return over_text
    return (KINDS[kind].libraries.head_layer or over_tokens,)


def kind_as_read(head: Head) -> KindName:
    """The kind that other libraries' files imply for a head: one output over a text is a regression."""
    if KINDS[head.kind].over_text and head.num_labels == 1:
        return kind_of_problem_type("regression")
    return kinds_of_head(head)[0]


def with_own_kind(head: Head, declared: KindName | None = None) -> Head:
    """The head with the kind that other libraries' files imply. `declared`: the kind stated at the upload, which is
    kept."""
    return head if declared == head.kind else replace(head, kind=kind_as_read(head))
