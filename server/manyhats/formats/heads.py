"""A family's own head, as PEFT's `modules_to_save` and AdapterHub's static heads store it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.methods.heads import Head, Kind, Layer, Reads
from manyhats.methods.libraries.unclaimed import UnclaimedTensors

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


def family_head(unclaimed: UnclaimedTensors, prefix: str, kind: Kind, backbone: Backbone) -> Head | None:
    """Takes the head's tensors, whose names start with `prefix`; None where there are none.

    Raises InvalidRequest where the head is there in part.
    """
    layout, token_layer = backbone.task_heads.classification, backbone.task_heads.tokens
    if layout is None or token_layer is None:
        raise AdapterMismatch(
            f"the head of {backbone.config.model_type} models has a dense layer and a norm that the file does not "
            "hold; an adapter without a head (FEATURE_EXTRACTION) is served",
            param="task_type",
        )
    names: tuple[str, ...] = layout.linears
    reads: Reads = layout.reads
    if kind == "tokens":
        names, reads = (token_layer,), "tokens"
    elif kind == "span":
        names, reads = ("qa_outputs",), "tokens"
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


def with_own_kind(head: Head, asked: Kind | None = None) -> Head:
    """A classification with one output is a regression, where nobody asks for the label's score (see `Head.kinds`)."""
    if head.kind == "classify" and head.num_labels == 1 and asked != "classify":
        return Head("regress", head.reads, head.layers)
    return head
