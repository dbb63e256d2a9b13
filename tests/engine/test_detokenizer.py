"""Texts token by token: the chunks together are the whole, and stop strings are found wherever they fall."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manyhats.backbone import Text, Tokenizer
from manyhats.engine.detokenizer import IncrementalDetokenizer

from tests import tiny

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat;",
    "naïve",
    "café,",
    "日本語",
    "and",
    "🙂🙃",
    "emoji",
    "\n\n",
    "tabs\tand",
    "",
    "spaces",
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = Path(tmp_path_factory.mktemp("bytes"))
    tiny.byte_tokenizer().save_pretrained(folder)
    return Tokenizer(str(folder))


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode([Text(text)], 10_000)[0].ids


def write(
    tokenizer: Tokenizer, tokens: list[int], stops: tuple[str, ...] = (), **options: Any
) -> tuple[str, list[str], str | None]:
    detokenizer = IncrementalDetokenizer(tokenizer, stops, **options)
    chunks = []
    for token in tokens:
        chunks.append(detokenizer.push(token))
        if detokenizer.stop is not None:
            break
    chunks.append(detokenizer.finish())
    return detokenizer.text, chunks, detokenizer.stop


@settings(max_examples=100, deadline=None)
@given(words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=12))
def test_chunks_are_the_text(tokenizer: Tokenizer, words: list[str]) -> None:
    text = " ".join(words)
    whole, chunks, _ = write(tokenizer, ids(tokenizer, text))
    assert whole == text
    assert "".join(chunks) == text
    assert not any("\ufffd" in chunk for chunk in chunks)


@settings(max_examples=100, deadline=None)
@given(tokens=st.lists(st.integers(0, 300), min_size=1, max_size=30))
def test_any_tokens_give_what_decoding_gives(tokenizer: Tokenizer, tokens: list[int]) -> None:
    """Also where they are no whole characters."""
    whole, chunks, _ = write(tokenizer, tokens)
    assert "".join(chunks) == whole
    assert whole == tokenizer.decode(tokens)


@settings(max_examples=150, deadline=None)
@given(
    words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=12),
    stops=st.lists(st.text(alphabet="the catond语🙂 ", min_size=1, max_size=6), min_size=1, max_size=3),
    keep=st.booleans(),
)
def test_stops_at_the_first(tokenizer: Tokenizer, words: list[str], stops: list[str], keep: bool) -> None:
    text = " ".join(words)
    whole, chunks, stop = write(tokenizer, ids(tokenizer, text), tuple(stops), keep_stop=keep)
    assert "".join(chunks) == whole
    if stop is None:
        assert whole == text
        assert not any(one in text for one in stops)
        return
    assert stop in stops
    assert text.startswith(whole)
    if keep:
        assert whole.endswith(stop)
    else:
        assert text.startswith(whole + stop)
        assert not any(one in whole for one in stops)


def test_nothing_of_a_stop_string_is_shown_before_it_is_sure(tokenizer: Tokenizer) -> None:
    detokenizer = IncrementalDetokenizer(tokenizer, ("mat and",))
    emitted = ""
    for token in ids(tokenizer, "cat sat on the mat and"):
        emitted += detokenizer.push(token)
        assert "mat" not in emitted
    assert detokenizer.stop == "mat and"
    assert emitted == "cat sat on the "


@pytest.mark.parametrize("after", range(8))
def test_a_stop_string_counts_behind_a_least_length(tokenizer: Tokenizer, after: int) -> None:
    tokens = ids(tokenizer, "cat sat cat sat cat sat")
    whole, chunks, stop = write(tokenizer, tokens, ("cat",), stop_after=after)
    assert "".join(chunks) == whole
    assert whole + (stop or "") == tokenizer.decode(tokens)[: len(whole) + len(stop or "")]
    first = next((n for n in range(after + 1, len(tokens) + 1) if tokenizer.decode(tokens[:n]).endswith("cat")), None)
    assert whole == ("cat sat cat sat cat sat" if first is None else tokenizer.decode(tokens[:first])[:-3])


def test_special_tokens_are_text_where_that_is_asked(tokenizer: Tokenizer) -> None:
    special = tokenizer.loaded.all_special_ids[0]
    tokens = [*ids(tokenizer, "the cat"), special, *ids(tokenizer, "sat")]
    for skip in (True, False):
        whole, chunks, _ = write(tokenizer, tokens, skip_special=skip)
        assert whole == "".join(chunks) == tokenizer.loaded.decode(tokens, skip_special_tokens=skip)
    assert tokenizer.decode(tokens, skip_special=False) != tokenizer.decode(tokens)
