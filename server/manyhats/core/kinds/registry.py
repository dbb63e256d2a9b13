"""All kinds of task, and lookups over them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from manyhats.core.kinds.base import Kind
from manyhats.core.kinds.classify import Classify, ClassifyTraining
from manyhats.core.kinds.embed import Embed, EmbedTraining
from manyhats.core.kinds.fill import Fill
from manyhats.core.kinds.generate import Generate, GenerateTraining
from manyhats.core.kinds.multilabel import MultilabelTraining
from manyhats.core.kinds.regress import Regress, RegressTraining
from manyhats.core.kinds.rerank import Rerank, RerankTraining
from manyhats.core.kinds.span import Span, SpanTraining
from manyhats.core.kinds.tokens import Tokens, TokensTraining
from manyhats.core.kinds.training import KindTraining
from manyhats.methods.heads import Head

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

# Where several kinds have the same name in a library, a file is read as the first of them.
KINDS: dict[str, Kind[Any]] = {
    kind.name: kind for kind in (Classify(), Tokens(), Regress(), Rerank(), Span(), Embed(), Generate(), Fill())
}
HEADLESS = tuple(name for name, kind in KINDS.items() if kind.head is None)

# What can be trained, by its name on the command line.
TRAININGS: dict[str, KindTraining] = {
    training.name: training
    for training in (
        ClassifyTraining(),
        MultilabelTraining(),
        RegressTraining(),
        RerankTraining(),
        TokensTraining(),
        SpanTraining(),
        EmbedTraining(),
        GenerateTraining(),
    )
}

# The types of the names, for pydantic models.
if TYPE_CHECKING:
    KnownKind = str
    HeadlessKind = str
else:
    KnownKind = Literal[tuple(KINDS)]
    HeadlessKind = Literal[HEADLESS]


def headless_kinds(backbone: Backbone) -> tuple[str, ...]:
    """The kinds of adapters without a head: of the backbone's states, and of its language-model head."""
    return tuple(name for name in HEADLESS if KINDS[name].possible_on(backbone))


def kinds_of_head(head: Head) -> tuple[str, ...]:
    """The kinds that a head supports.

    For a head over a text no file says what the outputs mean, so it supports every kind with as many: one output is a
    value, a label's logit, or that of a document's relevance. A head over each token supports only its own kind.
    """
    if not KINDS[head.kind].over_text:
        return (head.kind,)
    outputs = {name: kind.head.outputs for name, kind in KINDS.items() if kind.head is not None and kind.over_text}
    return tuple(name for name, count in outputs.items() if count in (None, head.num_labels))


def check_head(head: Head, backbone: Backbone) -> None:
    """Raises AdapterMismatch where a head does not fit the backbone, or its kind."""
    head.check(backbone)
    KINDS[head.kind].check_head(head)
