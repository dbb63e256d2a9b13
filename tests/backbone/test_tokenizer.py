"""Tokens, cuts and threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manyhats.backbone import Backbone, Text, Tokenizer
from manyhats.errors import ConfigurationError
from transformers import AutoTokenizer

from tests import tiny
from tests.families import ENCODERS


# The two ways to mark the ends of a text; the other families have one of the same tokenizers.
@pytest.fixture(params=[f if f in ("bert", "roberta") else pytest.param(f, marks=pytest.mark.slow) for f in ENCODERS])
def backbone(request: pytest.FixtureRequest, load_backbone: Callable[[str], Backbone]) -> Backbone:
    """A backbone with each of the tokenizers."""
    return load_backbone(request.param)


def test_same_tokens_as_the_original(backbone: Backbone) -> None:
    original = AutoTokenizer.from_pretrained(backbone.name)
    for text in tiny.texts([0, 1, 7, 62], seed=1):
        (encoded,) = backbone.tokenizer.encode([Text(text)], tiny.MAX_TOKENS)
        assert encoded.ids == original(text)["input_ids"]
        assert encoded.full_length == len(encoded.ids)


@pytest.mark.parametrize("maximum", [2, 3, 4, 10, 63, 64])
def test_a_cut_is_the_originals_and_is_reported(backbone: Backbone, maximum: int) -> None:
    original = AutoTokenizer.from_pretrained(backbone.name)
    for count in (0, 1, 2, 8, 61, 62, 100):
        text = tiny.words(count, seed=count)
        (encoded,) = backbone.tokenizer.encode([Text(text)], maximum)
        expected = original(text, truncation=True, max_length=maximum)
        assert encoded.ids == expected["input_ids"]
        assert encoded.full_length == count + 2
        assert len(encoded.ids) == min(maximum, count + 2)
        assert encoded.special == [1, *[0] * (len(encoded.ids) - 2), 1]
        assert [text[a:b] for a, b in encoded.offsets[1:-1]] == text.split()[: maximum - 2]


@settings(max_examples=80, deadline=None)
@given(first=st.integers(0, 30), second=st.integers(0, 30), maximum=st.integers(5, 40))
def test_the_longer_text_of_a_pair_is_cut_first(load_backbone, first: int, second: int, maximum: int) -> None:
    for family, specials in (("bert", 3), ("roberta", 4)):
        backbone = load_backbone(family)
        (encoded,) = backbone.tokenizer.encode([Text(tiny.words(first, 1), tiny.words(second, 2))], maximum)
        assert encoded.full_length == first + second + specials
        assert len(encoded.ids) == min(maximum, encoded.full_length)
        kept = encoded.sequence_ids.count(0), encoded.sequence_ids.count(1)
        assert kept[0] <= first
        assert kept[1] <= second
        if sum(kept) < first + second:
            longer, shorter = (0, 1) if first >= second else (1, 0)
            lost = first - kept[0], second - kept[1]
            assert lost[longer] > 0
            if lost[shorter] > 0:  # only once both are equally long
                assert abs(kept[0] - kept[1]) <= 1
        if family == "bert":
            assert encoded.type_ids == [0] * (kept[0] + 2) + [1] * (kept[1] + 1)


def test_words_that_are_already_split(backbone: Backbone) -> None:
    encoded = backbone.tokenizer.encode_words(["w1", "w2", "w3", "w4"], 5)
    assert encoded.full_length == 6
    assert encoded.words == [None, 0, 1, 2, None]
    whole = backbone.tokenizer.encode_words(["w1", "w2"], 64)
    assert whole.ids == backbone.tokenizer.encode([Text("w1 w2")], 64)[0].ids


def test_many_threads_get_their_own_answers(bert: Backbone) -> None:
    """Every thread asks with its own limit; a shared truncation switch would show."""
    text = tiny.words(60, seed=0)
    pairs = (tiny.words(30, seed=1), tiny.words(20, seed=2))
    maxima = [8 + i for i in range(32)]

    def ask(maximum: int) -> list:
        encoded = bert.tokenizer.encode([Text(text), Text(*pairs), Text("w1")], maximum)
        return [(one.ids, one.type_ids, one.origins, one.full_length, one.at_least) for one in encoded]

    expected = [ask(maximum) for maximum in maxima]
    barrier = Barrier(32)

    def together(maximum: int) -> list:
        barrier.wait()
        return [ask(maximum) for _ in range(10)]

    with ThreadPoolExecutor(32) as pool:
        for answers, right in zip(pool.map(together, maxima), expected, strict=True):
            assert all(answer == right for answer in answers)


def test_a_folder_without_a_tokenizer(tmp_path) -> None:
    with pytest.raises(ConfigurationError, match="tokenizer"):
        Tokenizer(str(tmp_path))


@pytest.mark.real
def test_real_tokenizer_cuts_as_the_original(real_backbone: Backbone) -> None:
    from manyhats.backbone.loading import locate

    original = AutoTokenizer.from_pretrained(locate(real_backbone.name))
    for text in ("Unbelievably long-winded sentences, tokenised " * 30, "naïve café 🦊 Ünïcödé", ""):
        for maximum in (4, 17, 128):
            (encoded,) = real_backbone.tokenizer.encode([Text(text)], maximum)
            assert encoded.ids == original(text, truncation=True, max_length=maximum)["input_ids"]


@pytest.mark.parametrize("pair", [False, True])
def test_reading_ends_where_a_text_is_too_long_for_sure(backbone: Backbone, pair: bool, monkeypatch) -> None:
    """The tokens are those of the whole text, and of a text of a million words hardly any is read."""
    monkeypatch.setattr("manyhats.backbone.tokenizer._SHORT", 1000)
    long, short = tiny.words(20_000, seed=1), tiny.words(5, seed=2)
    text = Text(long, short) if pair else Text(long)
    (whole,) = backbone.tokenizer.encode([text], 1 << 20)
    read: list[int] = []
    tokenizer = Tokenizer(backbone.name)
    inner = tokenizer._backend
    monkeypatch.setattr(tokenizer, "_backend", Witness(inner, read))
    (encoded,) = tokenizer.encode([text], 32)
    original = AutoTokenizer.from_pretrained(backbone.name)
    assert encoded.ids == original(*([long, short] if pair else [long]), truncation=True, max_length=32)["input_ids"]
    assert encoded.at_least
    assert 32 < encoded.full_length < whole.full_length == 20_000 + (5 if pair else 0) + (whole.special.count(1))
    assert sum(read) < 20_000


class Witness:
    """Tells how many characters a tokenizer was given."""

    def __init__(self, inner, read: list[int]) -> None:
        self.inner, self.read = inner, read

    def __getattr__(self, name: str):
        return getattr(self.inner, name)

    def encode(self, text, *rest, **named):
        self.read.append(len(text))
        return self.inner.encode(text, *rest, **named)

    def encode_batch(self, texts, **named):
        self.read += [len(text) if isinstance(text, str) else sum(map(len, text)) for text in texts]
        return self.inner.encode_batch(texts, **named)


def test_a_long_text_that_fits_is_read_whole(backbone: Backbone, monkeypatch) -> None:
    monkeypatch.setattr("manyhats.backbone.tokenizer._SHORT", 100)
    text = "w1" + " " * 50_000 + "w2"
    (encoded,) = backbone.tokenizer.encode([Text(text)], 64)
    assert encoded.ids == AutoTokenizer.from_pretrained(backbone.name)(text)["input_ids"] or encoded.at_least
    assert not encoded.at_least or encoded.full_length > 64
