"""The heads of transformers' task models are built as the table says."""

from __future__ import annotations

from typing import Any

import pytest
from manyhats.backbone.families import FAMILIES
from manyhats.backbone.task_heads import HeadLayout, TaskHeads, task_heads_of
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from tests import tiny


def _heads(config: Any) -> TaskHeads:
    return task_heads_of(config.model_type, causal=FAMILIES[config.model_type].causal)


def _linears(model: Any) -> list[str]:
    """The linear layers of a model beside its base model."""
    own = f"{model.base_model_prefix}."
    return [name for name, m in model.named_modules() if isinstance(m, nn.Linear) and not name.startswith(own)]


@pytest.mark.parametrize("family", tiny.ALL_FAMILIES)
def test_over_a_whole_text(family: str) -> None:
    config = tiny.config(family)
    config.pad_token_id = config.pad_token_id or 0
    layout = _heads(config).classification
    if layout is not None:
        assert _linears(AutoModelForSequenceClassification.from_config(config)) == list(layout.linears)


@pytest.mark.parametrize("family", tiny.ALL_FAMILIES)
def test_over_each_token(family: str) -> None:
    config = tiny.config(family)
    name = _heads(config).tokens
    if name is None:
        return
    try:
        model = AutoModelForTokenClassification.from_config(config)
    except ValueError:
        pytest.skip("transformers has no such task model")
    assert _linears(model) == [name]


def test_a_family_without_an_entry_has_the_heads_of_the_generic_classes() -> None:
    assert task_heads_of("new", causal=True) == TaskHeads(HeadLayout(("score",), reads="last"), "score")
    assert task_heads_of("new", causal=False) == TaskHeads(None, None)
