"""What other libraries call the kinds of task."""

from __future__ import annotations

import pytest
from manyhats.errors import InvalidRequest
from manyhats.formats.kinds import adapterhub_head_type, adapterhub_head_types, kind_of_class, peft_task_types
from manyhats.methods.heads import KindName


@pytest.mark.parametrize(
    ("model_class", "kind"),
    [
        ("BertForSequenceClassification", "classify"),
        ("BertForTokenClassification", "tokens"),
        ("BertForQuestionAnswering", "span"),
        ("GPT2LMHeadModel", "generate"),
        ("LlamaForCausalLM", "generate"),
        ("BertForMaskedLM", "fill"),
        ("BertModel", "embed"),
        ("BertAdapterModel", None),
        ("GPT2DoubleHeadsModel", None),
        ("WhisperForConditionalGeneration", None),
    ],
)
def test_a_models_class_says_what_it_is_for(model_class: str, kind: KindName | None) -> None:
    assert kind_of_class(model_class) == kind


def test_a_name_of_several_kinds_is_read_as_the_first() -> None:
    assert peft_task_types() == {
        "SEQ_CLS": "classify",
        "TOKEN_CLS": "tokens",
        "QUESTION_ANS": "span",
        "FEATURE_EXTRACTION": "embed",
        "CAUSAL_LM": "generate",
    }
    assert adapterhub_head_types() == {
        "classification": "classify",
        "multilabel_classification": "classify",
        "tagging": "tokens",
        "question_answering": "span",
    }
    assert adapterhub_head_type("regress") == adapterhub_head_type("classify") == "classification"
    with pytest.raises(InvalidRequest, match="no head for tasks of kind 'embed'"):
        adapterhub_head_type("embed")
