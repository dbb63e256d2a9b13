"""What a request may ask of a task, by the task's kind."""

from __future__ import annotations

import pytest
from manyhats.errors import InvalidRequest
from manyhats.serving.parameters import parse_parameters


@pytest.mark.parametrize("kind", ["classify", "tokens", "regress", "embed"])
def test_a_parameter_of_another_kind_names_the_right_ones(kind):
    own = {
        "classify": {"logits", "top_k", "multi_label", "truncate"},
        "tokens": {"aggregation", "logits", "truncate"},
        "regress": {"truncate"},
        "embed": {"pooling", "normalize", "prompt", "prompt_name", "truncate"},
    }
    for stranger in set().union(*own.values(), {"temperature", ""}) - own[kind]:
        with pytest.raises(InvalidRequest) as caught:
            parse_parameters(kind, "t", {}, {stranger: 1})
        told = caught.value.message.partition("it has ")[2]
        assert set(told.split(", ")) == own[kind]
        assert caught.value.param == f"parameters.{stranger}"


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("classify", {"top_k": 0}),
        ("classify", {"top_k": True}),
        ("classify", {"top_k": 1.0}),
        ("classify", {"top_k": "1"}),
        ("classify", {"logits": 1}),
        ("classify", {"logits": None}),
        ("tokens", {"aggregation": "best"}),
        ("tokens", {"aggregation": ["first"]}),
        ("embed", {"pooling": "median"}),
        ("embed", {"pooling": []}),
        ("embed", {"normalize": "true"}),
        ("regress", {"truncate": 1}),
    ],
)
def test_a_value_that_cannot_be_is_refused(kind, values):
    (name,) = values
    with pytest.raises(InvalidRequest, match=name) as caught:
        parse_parameters(kind, "t", {}, values)
    assert caught.value.param == f"parameters.{name}"


def test_a_request_wins_over_the_defaults_of_the_task():
    both = parse_parameters("classify", "t", {"top_k": 2, "logits": True, "pooling": "cls"}, {"top_k": 1})
    assert (both.top_k, both.logits) == (1, True)
