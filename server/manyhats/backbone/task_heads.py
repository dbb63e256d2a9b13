"""How transformers' own task models build their heads: `...ForSequenceClassification` and `...ForTokenClassification`.

A family without an entry gets what transformers' generic classes build: for a decoder a linear layer `score`. Encoders
have no generic class, so those without an entry have no known heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class HeadLayout:
    """A head over a whole text that is a chain of linear layers.

    `linears`: their names in order, with an activation between them. `reads`: the first token's last hidden state, the
    last token's, or the backbone's pooler.
    """

    linears: tuple[str, ...]
    activation: str = "tanh"
    reads: Literal["first", "last", "pooler"] = "first"


@dataclass(frozen=True, slots=True)
class TaskHeads:
    """The heads of one family. None: not made of linear layers only.

    `classification`: over a whole text. `tokens`: the name of the linear layer over each token.
    """

    classification: HeadLayout | None
    tokens: str | None = "classifier"


_DENSE = HeadLayout(linears=("classifier.dense", "classifier.out_proj"))
_POOLED = HeadLayout(linears=("classifier",), reads="pooler")
_SCORE = HeadLayout(linears=("score",), reads="last")

_HEADS = {
    "albert": TaskHeads(_POOLED),
    "bert": TaskHeads(_POOLED),
    "distilbert": TaskHeads(HeadLayout(linears=("pre_classifier", "classifier"), activation="relu")),
    "electra": TaskHeads(HeadLayout(linears=_DENSE.linears, activation="gelu")),
    "gpt2": TaskHeads(_SCORE),
    "gpt_neox": TaskHeads(_SCORE),
    "modernbert": TaskHeads(None, None),  # a dense layer, an activation and a norm come before its linear layer
    "mpnet": TaskHeads(_DENSE),
    "opt": TaskHeads(_SCORE),
    "reformer": TaskHeads(_DENSE),
    "roberta": TaskHeads(_DENSE),
    "xlm-roberta": TaskHeads(_DENSE),
}
_DECODER = TaskHeads(_SCORE, "score")
_UNKNOWN = TaskHeads(None, None)


def task_heads_of(model_type: str, *, causal: bool) -> TaskHeads:
    """The heads of a config's `model_type`. `causal`: whether it is a decoder."""
    return _HEADS.get(model_type, _DECODER if causal else _UNKNOWN)
