"""What a sequence's penalties know of its tokens."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from manyhats.core.sampling_params import SampledToken
from manyhats.core.token_history import TokenHistory

TOKENS = st.lists(st.integers(0, 30), max_size=60)


@given(prompt=TOKENS, output=TOKENS, stops=st.lists(st.integers(0, 60), max_size=6))
def test_counts_what_it_followed(prompt: list[int], output: list[int], stops: list[int]) -> None:
    """At every step, however many tokens came since it was asked last."""
    sampled = [SampledToken(token, None, ()) for token in output]
    history = TokenHistory(prompt)
    for stop in [*sorted(stops), 60, 60]:
        history.follow(sampled[:stop])
        known = output[:stop]
        assert history.output == known
        seen = history.seen().tolist()
        assert len(seen) == len(set(seen))
        assert set(seen) == {*prompt, *known}
        tokens, counts = history.counts()
        assert dict(zip(tokens.tolist(), counts.tolist(), strict=True)) == Counter(known)


def test_may_begin_within_a_text() -> None:
    history = TokenHistory([1], [2, 3])
    history.follow([SampledToken(token, None, ()) for token in (2, 3, 3)])
    assert history.output == [2, 3, 3]
    assert sorted(history.seen().tolist()) == [1, 2, 3]
