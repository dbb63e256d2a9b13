"""Labels with scores, the best first, as the servers and clients of Hugging Face have them."""

from __future__ import annotations

from typing import Any

from manyhats.api.pooled import LABELS, RELEVANCE
from manyhats.api.schemas import AnswerBody

VALUES = ("regress",)
# The kinds of task whose answers can be read so, and the parameters for the head's own outputs.
SCORED = (*LABELS, *RELEVANCE, *VALUES)
_RAW: dict[str, dict[str, Any]] = {LABELS[0]: {"logits": True}, RELEVANCE[0]: {"raw_scores": True}}
_ONE_LABEL = "LABEL_0"


class LabelScore(AnswerBody):
    """A label and its score."""

    label: str
    score: float


def scoring_parameters(kind: str, *, raw: bool) -> dict[str, Any]:
    """The parameters for scores of all labels, or for the head's own outputs where `raw`."""
    every: dict[str, Any] = {"top_k": None} if kind in LABELS else {}
    return every | (_RAW.get(kind, {}) if raw else {})


def label_scores(output: dict[str, Any], *, raw: bool) -> list[dict[str, Any]]:
    """An answer's labels with their scores; a value or a relevance is the score of the one label."""
    if "scores" not in output:
        return [{"label": _ONE_LABEL, "score": output["value"] if "value" in output else output["score"]}]
    scores: dict[str, float] = output["scores"]
    values = output["logits"] if raw else scores.values()
    ranked = sorted(zip(scores, values, strict=True), key=lambda one: -one[1])
    return [{"label": label, "score": value} for label, value in ranked]
