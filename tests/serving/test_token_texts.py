"""Tokens in their texts: real bytes, and offsets that index into the text, for every kind of tokenizer."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manyhats.backbone import Text, Tokenizer
from manyhats.engine.detokenizer import IncrementalDetokenizer
from manyhats.serving.token_texts import TokenText, TokenTexts, prompt_token_texts, token_names

from tests import tokenizer_kinds

TEXTS = [
    "The quick  brown fox. naïve 日本 🙂x",
    " the the",
    "the fox\n\n jumps, dog ",
    "the",
    "🙂🙃",
    "quick é",
]


@pytest.fixture(scope="module")
def of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tokenizer]:
    return cache(lambda kind: tokenizer_kinds.make(kind, tmp_path_factory.mktemp("tokenizer")))


def placed(text: str, told: list[TokenText]) -> bool:
    """Whether each token that has whole characters stands where it says; offsets never fall."""
    ordered = all(a.offset <= b.offset for a, b in pairwise(told))
    return ordered and all(
        one.text.startswith("bytes:") or text[one.offset : one.offset + len(one.text)] == one.text for one in told
    )


@pytest.mark.parametrize("kind", tokenizer_kinds.KINDS)
@pytest.mark.parametrize("text", TEXTS)
def test_a_prompts_tokens_are_in_its_text(of: Callable[[str], Tokenizer], kind: str, text: str) -> None:
    tokenizer = of(kind)
    (encoded,) = tokenizer.encode([Text(text)], 999)
    shown, told = prompt_token_texts(tokenizer, text, encoded)
    assert shown == text
    own = [one for one, special in zip(told, encoded.special, strict=True) if not special]
    assert placed(text, own)
    if "bytes" in kind:
        assert b"".join(one.bytes for one in own) == text.encode()
    names = [one.text for one, special in zip(told, encoded.special, strict=True) if special]
    assert names == [
        tokenizer.token_to_string(t) for t, special in zip(encoded.ids, encoded.special, strict=True) if special
    ]


@pytest.mark.parametrize("kind", tokenizer_kinds.KINDS)
@pytest.mark.parametrize("text", TEXTS)
def test_tokens_one_by_one_are_in_what_they_decode_to(of: Callable[[str], Tokenizer], kind: str, text: str) -> None:
    tokenizer = of(kind)
    (encoded,) = tokenizer.encode([Text(text)], 999)
    ids = [token for token in encoded.ids if token not in tokenizer.special_ids]
    whole = tokenizer.decode(ids)
    writer = TokenTexts(tokenizer, offset=5)
    told = [writer.push(token) for token in ids]
    assert placed("12345" + whole, told)
    assert b"".join(one.bytes for one in told) == whole.encode()
    shown, prompt = prompt_token_texts(tokenizer, None, encoded)
    assert shown == whole
    assert placed(whole, [o for o, t in zip(prompt, encoded.ids, strict=True) if t not in tokenizer.special_ids])


def test_half_characters_have_their_bytes(of: Callable[[str], Tokenizer]) -> None:
    for kind in ("bytes", "sentencepiece"):
        tokenizer = of(kind)
        ids = tokenizer.encode_bare("the 🙂", 99).ids
        writer = TokenTexts(tokenizer)
        told = [writer.push(token) for token in ids]
        assert [one.bytes for one in told[-4:]] == [b"\xf0", b"\x9f", b"\x99", b"\x82"]
        assert [one.text for one in told[-4:]] == [r"bytes:\xf0", r"bytes:\x9f", r"bytes:\x99", r"bytes:\x82"]
        assert [one.offset for one in told[-4:]] == [4] * 4
        assert writer.push(ids[0]).offset == 5


def test_alternatives_read_as_they_would_in_the_place_of_the_next(of: Callable[[str], Tokenizer]) -> None:
    tokenizer = of("sentencepiece")
    names = [tokenizer._backend.id_to_token(t) for t in range(tokenizer._backend.get_vocab_size())]
    spaced = next(t for t, name in enumerate(names) if name[0] == "▁" and name[1:].isalpha())
    word = names[spaced][1:]
    writer = TokenTexts(tokenizer)
    assert writer.alternative(spaced) == (word, word.encode(), 0)
    writer.push(spaced)
    end = len(word)
    assert writer.alternative(spaced) == (f" {word}", f" {word}".encode(), end)
    assert writer.alternative(names.index("<0xE2>")) == (r"bytes:\xe2", b"\xe2", end)
    assert writer.alternative(1) == ("<s>", b"<s>", end)
    pieces = of("wordpiece")
    writer = TokenTexts(pieces)
    suffix = next(t for t in range(300) if (pieces._backend.id_to_token(t) or "").startswith("##"))
    writer.push(pieces.encode_bare("the", 99).ids[0])
    assert writer.alternative(suffix).text == pieces._backend.id_to_token(suffix)[2:]


def test_names_that_read_alike_are_told_apart() -> None:
    assert token_names([(5, "the"), (6, " the"), (7, "the"), (8, "the")]) == ["the", " the", "token_id:7", "token_id:8"]


def test_what_is_cut_is_not_in_the_text(of: Callable[[str], Tokenizer]) -> None:
    tokenizer = of("sentencepiece")
    text = "the quick brown fox"
    (encoded,) = tokenizer.encode([Text(text)], 3)
    shown, told = prompt_token_texts(tokenizer, text, encoded)
    assert text.startswith(shown)
    assert len(shown) < len(text)
    assert len(told) == 3
    assert placed(shown, told[1:])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000))
@pytest.mark.parametrize("kind", tokenizer_kinds.KINDS)
def test_any_tokens_give_a_text(of: Callable[[str], Tokenizer], kind: str, seed: int) -> None:
    """Also bytes that are no characters, which SentencePiece's decoder shows or takes back as others follow."""
    tokenizer = of(kind)
    pick = random.Random(seed)
    ids = [pick.randrange(tokenizer._backend.get_vocab_size()) for _ in range(40)]
    writer, texts = IncrementalDetokenizer(tokenizer), TokenTexts(tokenizer)
    pieces = [writer.push(token) for token in ids]
    pieces.append(writer.finish())
    told = [texts.push(token) for token in ids]
    assert "".join(pieces) == writer.text
    assert all(a.offset <= b.offset for a, b in pairwise(told))
    if "sentencepiece" not in kind:
        assert writer.text == tokenizer.decode(ids)
    assert all(one.offset <= len(writer.text) for one in told)


def test_special_tokens_may_be_text(of: Callable[[str], Tokenizer]) -> None:
    tokenizer = of("bytes")
    end = tokenizer._backend.token_to_id("<e>")
    ids = [*tokenizer.encode_bare("the", 9).ids, end, *tokenizer.encode_bare(" fox", 9).ids]
    for skip, whole in ((True, "the fox"), (False, "the<e> fox")):
        assert tokenizer.decode(ids, skip_special=skip) == whole
        writer = TokenTexts(tokenizer, skip_special=skip)
        told = [writer.push(token) for token in ids]
        assert [one.text for one in told if one.text == "<e>"] == ["<e>"]
        assert placed(whole, [one for one in told if one.text != "<e>" or not skip])
