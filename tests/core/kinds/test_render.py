"""Answers from arrays made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from manyhats.backbone import Encoded, Text, TokenOrigins
from manyhats.core.kinds.base import Rendered
from manyhats.core.kinds.registry import KINDS

EMPTY = Encoded([], [], TokenOrigins([], [], [], []), 0)


def render(kind: str, values: Any, labels: list[str] | None = None, **given: Any) -> dict[str, Any]:
    rendered = Rendered(Text("x"), EMPTY, labels, None)  # type: ignore[arg-type]
    return KINDS[kind].render(np.array(values, np.float32), KINDS[kind].parameters(**given), rendered)


def classify(values: list[float], labels: list[str] | None = None, **given: Any) -> dict[str, Any]:
    return render("classify", values, labels, **given)


def test_classify():
    answer = classify([0, 2, 1], ["a", "b", "c"])
    weights = np.exp([0, 2, 1])
    assert answer == {
        "label": "b",
        "score": pytest.approx(weights[1] / weights.sum()),
        "scores": pytest.approx(dict(zip("abc", weights / weights.sum(), strict=True))),
    }
    assert list(answer["scores"]) == ["a", "b", "c"]
    assert list(classify([0, 2])["scores"]) == ["LABEL_0", "LABEL_1"]
    assert classify([0, 2], logits=True)["logits"] == [0, 2]
    assert list(classify([0, 2, 1], top_k=2)["scores"]) == ["LABEL_1", "LABEL_2"]
    assert list(classify([0, 2, 1], top_k=9)["scores"]) == ["LABEL_1", "LABEL_2", "LABEL_0"]
    assert classify([1000, 0, -1000])["scores"]["LABEL_0"] == 1


def test_classify_with_several_labels():
    answer = classify([-1, 3, 0.5], ["a", "b", "c"], multi_label=True)
    assert answer["labels"] == ["b", "c"]
    assert answer["label"] == "b"
    assert answer["scores"] == pytest.approx({"a": 0.26894, "b": 0.95257, "c": 0.62246}, abs=1e-4)
    assert classify([-500, 500], multi_label=True)["scores"] == {"LABEL_0": 0, "LABEL_1": 1}


def test_embed_of_length_one():
    assert render("embed", [3, 4], normalize=True) == {"embedding": pytest.approx([0.6, 0.8])}
    answer = render("embed", [[3, 4], [0, 0]], normalize=True)
    assert np.allclose(answer["embedding"], [[0.6, 0.8], [0, 0]])


def test_regress():
    assert render("regress", [1.5]) == {"value": 1.5}
