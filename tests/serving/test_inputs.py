"""From texts to tokens: limits, templates, cutting."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manyhats.backbone import Text
from manyhats.errors import InputTooLong, InvalidRequest, TooLarge
from manyhats.serving.inputs import PromptTruncation, check_texts, fill_template, prepare, prepare_tokens

from tests import tiny


def test_a_template_puts_texts_in_their_places():
    both = Text("one", "two")
    assert fill_template(None, both) == both
    assert fill_template("a {text} b", both) == Text("a one b", "two")
    assert fill_template("{text_pair}: {text} {text}", both) == Text("two: one one")
    assert fill_template("{text}{text_pair}", Text("one")) == Text("one")


@settings(max_examples=60, deadline=None)
@given(text=st.text(), pair=st.none() | st.text())
def test_braces_of_a_caller_mean_nothing(text, pair):
    assert fill_template("<{text}|{text_pair}>", Text(text, pair)) == Text(f"<{text}|{pair or ''}>")


@settings(max_examples=60, deadline=None)
@given(template=st.text(), text=st.text(max_size=5))
def test_any_template_can_be_filled(template, text):
    fill_template(template, Text(text))


def test_limits():
    limits = {"max_inputs": 2, "max_characters": 10}
    check_texts([Text("x" * 10), Text("x", "y" * 9)], **limits)
    for texts, error in (
        ([], InvalidRequest),
        ([Text("a"), Text(" \n\t")], InvalidRequest),
        ([Text("a")] * 3, TooLarge),
        ([Text("a"), Text("x" * 11)], InputTooLong),
        ([Text("x" * 5, "y" * 6)], InputTooLong),
    ):
        with pytest.raises(error):
            check_texts(texts, **limits)


def test_a_text_that_is_too_long_is_refused_with_both_lengths_or_cut_with_a_warning(bert):
    texts = [Text("w1"), Text(tiny.words(8, 1))]
    whole = prepare(bert.tokenizer, texts, template=None, max_tokens=10, truncate=False)
    assert [len(e.ids) for e in whole.encoded] == [3, 10]
    assert (whole.warnings, whole.tokens) == ([], 13)
    with pytest.raises(InputTooLong, match=r"input 1 has 10 tokens; the task takes 9") as caught:
        prepare(bert.tokenizer, texts, template=None, max_tokens=9, truncate=False)
    assert caught.value.param == "inputs.1"
    truncated = prepare(bert.tokenizer, texts, template=None, max_tokens=9, truncate=True)
    assert [len(e.ids) for e in truncated.encoded] == [3, 9]
    (warning,) = truncated.warnings
    assert (warning.input, warning.code) == (1, "truncated")
    assert "10 tokens" in warning.message
    assert "takes 9" in warning.message


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kept", [2, 3, 5, 9, 10, 30])
def test_a_prompt_is_cut_as_transformers_cuts_it(bert, side, kept):
    """The tokenizer's special tokens stay, and count."""
    text = tiny.words(8, 1)
    loaded = bert.tokenizer.loaded
    before = loaded.truncation_side
    loaded.truncation_side = side
    try:
        expected = loaded(text, truncation=True, max_length=kept)["input_ids"]
    finally:
        loaded.truncation_side = before
        bert.tokenizer._backend.no_truncation()
    truncated = prepare(
        bert.tokenizer,
        [Text(text)],
        template=None,
        max_tokens=10,
        truncate=False,
        truncation=PromptTruncation(kept, side),
    )
    assert truncated.encoded[0].ids == expected
    assert truncated.warnings == []


def test_of_tokens_the_last_or_the_first_are_kept():
    for side, expected in (("left", [4, 5, 6]), ("right", [1, 2, 3])):
        truncated = prepare_tokens(
            [[1, 2, 3, 4, 5, 6]], vocabulary=9, max_tokens=4, truncate=False, truncation=PromptTruncation(3, side)
        )
        assert truncated.encoded[0].ids == expected
    with pytest.raises(InputTooLong, match="has 5 tokens; the task takes 4"):
        prepare_tokens([[1] * 6], vocabulary=9, max_tokens=4, truncate=False, truncation=PromptTruncation(5))
    both = prepare_tokens(
        [[1, 2, 3, 4, 5, 6]], vocabulary=9, max_tokens=4, truncate=True, truncation=PromptTruncation(5)
    )
    assert both.encoded[0].ids == [3, 4, 5, 6]
    assert "its last 4 tokens" in both.warnings[0].message


@pytest.mark.parametrize(
    ("prompt", "told"), [([], "is empty"), ([9], "the token 9"), ([-1], "-1"), ([1 << 70], "0 to 8")]
)
def test_tokens_that_do_not_exist(prompt, told):
    with pytest.raises(InvalidRequest, match=told):
        prepare_tokens([[1], prompt], vocabulary=9, max_tokens=4, truncate=False)
