"""What a request may ask of a task that generates."""

from __future__ import annotations

import math
from typing import Any

import pytest
from manyhats.core.kinds.generate import GenerateParameters
from manyhats.errors import InvalidRequest
from manyhats.serving.parameters import parse_parameters

_TOP = 1 << 64


def parsed(given: dict[str, Any], defaults: dict[str, Any] | None = None) -> GenerateParameters:
    parameters = parse_parameters("generate", "t", defaults or {}, given)
    assert isinstance(parameters, GenerateParameters)
    return parameters


def test_null_leaves_a_parameter_to_the_task() -> None:
    nulls = dict.fromkeys(GenerateParameters.model_fields)
    assert parsed(nulls) == GenerateParameters()
    assert parsed(nulls, {"top_k": 5, "seed": None}).top_k == 5


def test_a_whole_number_may_have_a_point() -> None:
    parameters = parsed({"max_new_tokens": 3.0, "seed": 1.0, "top_k": 2.0, "n": 2.0, "logprobs": 1.0})
    assert (parameters.max_new_tokens, parameters.seed, parameters.top_k, parameters.n) == (3, 1, 2, 2)
    assert isinstance(parameters.max_new_tokens, int)


def test_stop_strings_of_nothing_stop_nothing() -> None:
    assert parsed({"stop": ""}).stop == parsed({"stop": [""]}).stop == parsed({"stop": []}).stop == []
    assert parsed({"stop": ["a", ""]}).stop == parsed({"stop": "a"}).stop == ["a"]


@pytest.mark.parametrize(
    ("seed", "first", "second"),
    [(7, 7, 8), (-2, _TOP - 2, _TOP - 1), (_TOP - 1, _TOP - 1, 0), (-(1 << 63), 1 << 63, (1 << 63) + 1)],
)
def test_any_integer_of_64_bits_is_a_seed(seed: int, first: int, second: int) -> None:
    assert parsed({"seed": seed}).seed_of(0) == first
    assert parsed({"seed": seed}).seed_of(1) == second


def test_minus_one_is_no_seed() -> None:
    assert parsed({"seed": -1}).seed_of(0) is parsed({}).seed_of(3) is None


def test_a_form_takes_the_place_of_the_tasks() -> None:
    own = {"regex": "a+", "top_k": 4}
    assert parsed({}, own).regex == "a+"
    taken = parsed({"choice": ["x"]}, own)
    assert (taken.choice, taken.regex, taken.top_k) == (["x"], None, 4)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"temperature": "0.5"}, "temperature: .*valid number.*'0.5'"),
        ({"temperature": math.nan}, "temperature: .*finite"),
        ({"top_p": math.inf}, "top_p: .*finite"),
        ({"n": True}, "n: .*valid integer.*True"),
        ({"max_new_tokens": 3.5}, "max_new_tokens: .*3.5"),
        ({"seed": 1 << 64}, "seed"),
        ({"seed": -(1 << 63) - 1}, "seed"),
        ({"stop": {"a": 1}}, "stop: .*valid list"),
        ({"stop": ["x"] * 17}, "stop: at most 16"),
        ({"stop": [1] * 100_000}, "stop: at most 16"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias: .*token numbers"),
        ({"logit_bias": {"x": 1}}, "logit_bias: .*token numbers"),
        ({"logit_bias": {"\u0663": 1}}, "logit_bias: .*token numbers"),
        ({"logit_bias": {"1": math.nan}}, "logit_bias: .*finite"),
        ({"logit_bias": {str(i): 1 for i in range(2000)}}, "logit_bias: at most 1000 entries, not 2000"),
        ({"logit_bias": [1]}, "logit_bias: .*dictionary"),
        ({"stop_token_ids": ["1"]}, "stop_token_ids"),
        ({"stop_token_ids": [True]}, "stop_token_ids"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"stop_token_ids": [1] * 2000}, "stop_token_ids: at most"),
        ({"allowed_token_ids": []}, "allowed_token_ids is empty"),
        ({"bad_words": "x"}, "bad_words"),
        ({"bad_words": [""]}, "bad_words"),
        ({"choice": []}, "choice is empty"),
        ({"choice": [1]}, "choice"),
        ({"choice": ["a"], "regex": "b"}, "one form; regex and choice"),
        ({"min_tokens": 9, "max_new_tokens": 3}, "min_tokens is 9, more than max_new_tokens, 3"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens is 0"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"truncation_side": "middle"}, "truncation_side"),
        ({"grammar": 1}, "grammar"),
        ({"made_up": 1}, "no parameter 'made_up'"),
    ],
)
def test_what_cannot_be_is_named(given: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidRequest, match=told) as caught:
        parsed(given)
    assert len(caught.value.message) < 1000
    assert caught.value.param is not None
    assert caught.value.param.startswith("parameters")


def test_messages_have_the_callers_names() -> None:
    with pytest.raises(InvalidRequest, match=r"^max_tokens: .*-1") as caught:
        parse_parameters("generate", "t", {}, {"max_new_tokens": -1}, {"max_new_tokens": "max_tokens"})
    assert caught.value.param == "max_tokens"
