"""Choosing tokens: transformers' own processors, and independence of what shares the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from manyhats.engine.sampling import NO_TOKEN, BadWords, Draw, Sampling, choose
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

VOCABULARY = 1000


def logits(rows: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3


class Fixed:
    """Gives one number always, in place of a source of random ones."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


def draw(sampling: Sampling, at: float = 0.5, seen: tuple[int, ...] = (), written: tuple[int, ...] = ()) -> Draw:
    return Draw(sampling, Fixed(at), seen, written)  # type: ignore[arg-type]


def processed(row: torch.Tensor, s: Sampling, ids: list[int]) -> torch.Tensor:
    """Probabilities as transformers' processors leave them."""
    chain = LogitsProcessorList()
    if s.repetition != 1:
        chain.append(RepetitionPenaltyLogitsProcessor(s.repetition))
    chain.append(TemperatureLogitsWarper(s.temperature))
    if s.top_k:
        chain.append(TopKLogitsWarper(s.top_k))
    if s.top_p < 1:
        chain.append(TopPLogitsWarper(s.top_p))
    if s.min_p > 0:
        chain.append(MinPLogitsWarper(s.min_p))
    return chain(torch.tensor([ids or [0]]), row[None].clone())[0].softmax(-1)


SETTINGS = st.builds(
    Sampling,
    temperature=st.floats(0.2, 3),
    top_k=st.sampled_from([0, 1, 5, 40, 400, 5000]),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 0.05]),
    min_p=st.sampled_from([0.0, 0.02, 0.3]),
    repetition=st.sampled_from([1.0, 1.3]),
)


@settings(max_examples=150, deadline=None)
@given(sampling=SETTINGS, seed=st.integers(0, 1000), at=st.floats(0, 1, exclude_max=True))
def test_draws_what_transformers_leaves(sampling: Sampling, seed: int, at: float) -> None:
    row = logits(1, seed)
    ids = [3, 9, 12]
    (chosen,) = choose(row.clone(), [draw(sampling, at, tuple(ids))])
    left = processed(row[0], sampling, ids)
    assert left[chosen.token] > 0


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0),
        Sampling(temperature=0.7, top_k=7),
        Sampling(temperature=1.3, top_p=0.8),
        Sampling(temperature=1.0, min_p=0.1),
        Sampling(temperature=2.0, top_k=50, top_p=0.9, min_p=0.05),
        Sampling(temperature=2.0, top_k=400, top_p=0.5),
    ],
)
def test_shares_are_those_of_transformers(sampling: Sampling) -> None:
    """Evenly spaced numbers in place of random ones give every token its share, to the spacing."""
    row = logits(1, 4)
    count = 4000
    drawn = choose(row.expand(count, -1).clone(), [draw(sampling, (i + 0.5) / count) for i in range(count)])
    shares = torch.bincount(torch.tensor([c.token for c in drawn]), minlength=VOCABULARY) / count
    assert (shares - processed(row[0], sampling, [])).abs().max() <= 2 / count


@settings(max_examples=40, deadline=None)
@given(mixture=st.lists(SETTINGS, min_size=1, max_size=6), seed=st.integers(0, 1000))
def test_a_row_does_not_depend_on_the_others(mixture: list[Sampling], seed: int) -> None:
    rows = logits(len(mixture), seed)
    draws = [draw(s, (seed % 97) / 97, (i, 5)) for i, s in enumerate(mixture)]
    together = [c.token for c in choose(rows.clone(), draws)]
    assert together == [choose(rows[i : i + 1].clone(), [one])[0].token for i, one in enumerate(draws)]


def test_greedy_is_the_likeliest() -> None:
    rows = logits(3, 1)
    assert [c.token for c in choose(rows.clone(), [draw(Sampling())] * 3)] == rows.argmax(-1).tolist()


def test_penalties_and_biases() -> None:
    row = torch.zeros(1, VOCABULARY)
    row[0, [1, 2, 3]] = torch.tensor([5.0, 4.0, 3.0])

    def best(sampling: Sampling, written: tuple[int, ...]) -> int:
        return choose(row.clone(), [draw(sampling, written=written)])[0].token

    assert best(Sampling(presence=1.5), (1,)) == 2
    assert best(Sampling(presence=1.5), ()) == 1
    assert best(Sampling(frequency=0.8), (1, 1, 1, 2)) == 2
    assert best(Sampling(bias={3: 10.0}), ()) == 3
    assert best(Sampling(bias={1: -100.0}), ()) == 2


def test_what_is_not_allowed_is_never_chosen() -> None:
    allowed = torch.zeros(VOCABULARY, dtype=torch.bool)
    allowed[[7, 8]] = True
    for sampling in (Sampling(), Sampling(temperature=5.0), Sampling(temperature=5.0, top_p=0.99)):
        draws = [Draw(sampling, Fixed(i / 20), (), (), allowed) for i in range(20)]  # type: ignore[arg-type]
        assert {c.token for c in choose(logits(20, 3), draws)} <= {7, 8}


def test_logprobs_are_those_before_any_setting() -> None:
    row = logits(1, 9)
    expected = row[0].log_softmax(-1)
    (chosen,) = choose(row.clone(), [draw(Sampling(temperature=2.0, bias={5: 50.0}, logprobs=3))])
    assert chosen.token == 5
    assert chosen.logprob == pytest.approx(float(expected[5]), abs=1e-5)
    values, ids = expected.topk(3)
    assert [t for t, _ in chosen.top] == ids.tolist()
    assert [v for _, v in chosen.top] == pytest.approx(values.tolist(), abs=1e-5)


def test_a_seed_gives_the_same_numbers() -> None:
    rows = logits(1, 2)
    sampling = Sampling(temperature=1.0, seed=5)

    def text() -> list[int]:
        source = np.random.Generator(np.random.Philox(5))
        return [choose(rows.clone(), [Draw(sampling, source, (), ())])[0].token for _ in range(10)]

    assert text() == text()


@settings(max_examples=60, deadline=None)
@given(
    words=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=3), min_size=1, max_size=6),
    written=st.lists(st.integers(0, 5), max_size=6),
    seed=st.integers(0, 100),
)
def test_bad_words_are_those_of_transformers(words: list[list[int]], written: list[int], seed: int) -> None:
    """The same tokens are left: a word's last token goes where the others stand before it."""
    row = torch.randn(1, 12, generator=torch.Generator().manual_seed(seed))
    ids = torch.tensor([[11, *written]])  # transformers looks at the prompt too: one token that is in no word
    left = NoBadWordsLogitsProcessor([list(word) for word in words], eos_token_id=10)(ids, row.clone())
    (chosen,) = choose(row.clone(), [draw(Sampling(bad_words=BadWords(words)), written=tuple(written))])
    assert chosen.token == int(left.argmax())


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_a_least_length_is_that_of_transformers(count: int) -> None:
    row = torch.zeros(1, 10)
    row[0, [7, 8, 2]] = torch.tensor([9.0, 8.0, 7.0])
    ids = torch.tensor([[1, 1, *[2] * count]])
    left = MinNewTokensLengthLogitsProcessor(2, 3, [7, 8])(ids, row.clone())
    one = Draw(Sampling(min_tokens=3), None, (1, 1), [2] * count, ends=frozenset({7, 8}))
    assert choose(row.clone(), [one])[0].token == int(left.argmax()) == (2 if count < 3 else 7)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0), Sampling(temperature=1.0, top_p=0.5)])
def test_where_no_token_is_left_none_is_chosen(sampling: Sampling) -> None:
    """And the others of the batch are as they are alone."""
    rows = logits(2, 3)
    none = Draw(sampling, Fixed(0.5), (), (), torch.zeros(VOCABULARY, dtype=torch.bool))  # type: ignore[arg-type]
    other = draw(sampling)
    chosen = choose(rows.clone(), [none, other])
    assert chosen[0].token == NO_TOKEN
    assert chosen[1] == choose(rows[1:].clone(), [other])[0]


def test_a_share_of_nothing_is_the_likeliest() -> None:
    row = logits(1, 8)
    for at in (0.0, 0.5, 0.999):
        assert choose(row.clone(), [draw(Sampling(temperature=2.0, top_p=0.0), at)])[0].token == int(row.argmax())
