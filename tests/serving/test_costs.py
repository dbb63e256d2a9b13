"""What is small enough for the event loop: what may take long is never among it, whatever it looks like."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from manyhats.backbone import Text
from manyhats.core.kinds.registry import KINDS
from manyhats.registry.records import TaskSettings
from manyhats.serving.inference import LARGE, InferenceRequest, RequestState
from manyhats.serving.inputs import filled_size
from manyhats.serving.threads import SMALL_OUTPUT, SMALL_TEXT


def cost(kind: str = "classify", *texts: str, settings: Any = None, chat: Any = None, **given: Any) -> int:
    request = InferenceRequest("task", [Text(text) for text in texts], chat=chat)
    parameters = KINDS[kind].parameters.model_validate(given)
    settings = (settings or TaskSettings()).model_copy(update={"kind": kind})
    state = RequestState(request, None, settings, parameters, 0.0)  # type: ignore[arg-type]
    return state.preparing_cost


def test_short_texts_are_small():
    for kind in KINDS:
        assert cost(kind, "a text of some words") <= SMALL_TEXT, kind


@pytest.mark.parametrize(
    "large",
    [
        lambda: cost("classify", "w" * (SMALL_TEXT + 1)),
        lambda: cost("classify", *["w"] * 100),
        lambda: cost("classify", "w" * 30, settings=TaskSettings(template="{text}" * 100)),
        lambda: cost("classify", "w", settings=TaskSettings(template="x" * SMALL_TEXT + "{text}")),
        lambda: cost("embed", "w", prompt="x" * 3000),
        lambda: cost("embed", "w", settings=TaskSettings(prompts={"long": "x" * 3000})),
        lambda: cost("generate", "w", n=128),
    ],
)
def test_what_grows_is_large(large):
    assert large() > SMALL_TEXT


@pytest.mark.parametrize(
    "given",
    [
        {"regex": "a+"},
        {"choice": ["a"]},
        {"grammar": "start: x"},
        {"response_format": {"type": "json_object"}},
        {"bad_words": ["a"]},
        {"allowed_token_ids": [1]},
    ],
)
def test_what_is_compiled_first_is_large(given):
    assert cost("generate", "w", **given) == LARGE


def test_a_chat_is_large():
    assert cost("generate", chat=[{"role": "user", "content": "w"}]) == LARGE


def test_sizes_are_those_of_the_filled_template():
    assert filled_size(None, Text("abc", "de")) == 5
    assert filled_size("<{text}|{text}|{text_pair}>", Text("abc", "de")) >= len("<abc|abc|de>")


def test_outputs_cost_what_is_made_of_them():
    def of(kind: str, *shape: int) -> int:
        return KINDS[kind].rendering_cost(np.zeros(shape, dtype=np.float32), KINDS[kind].parameters())

    assert of("classify", 3) <= SMALL_OUTPUT
    assert of("embed", 1024) <= SMALL_OUTPUT
    assert of("tokens", 20, 9) <= SMALL_OUTPUT < of("tokens", 200, 9)
    assert of("span", 30, 2) <= SMALL_OUTPUT < of("span", 100, 2)
    assert of("fill", 1, 30_000) > SMALL_OUTPUT
