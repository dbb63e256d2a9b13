"""Choosing tokens: transformers' own processors, and independence of what shares the batch."""

from __future__ import annotations

import random
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from manyhats.core.sampling_params import BadWords, SamplingParams
from manyhats.core.token_history import TokenHistory
from manyhats.engine import sampler
from manyhats.engine.sampler import NO_TOKEN, SamplingInput, sample
from torch.utils._python_dispatch import TorchDispatchMode
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

from tests.engine.row_by_row import sample_row_by_row
from tests.engine.sampling_inputs import Fixed, any_input, different

VOCABULARY = 1000


def logits(rows: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3


def row_for(
    sampling: SamplingParams, at: float = 0.5, seen: tuple[int, ...] = (), output: tuple[int, ...] = ()
) -> SamplingInput:
    return SamplingInput(sampling, Fixed(at), seen, output)  # type: ignore[arg-type]


def processed(row: torch.Tensor, s: SamplingParams, ids: list[int]) -> torch.Tensor:
    """Probabilities as transformers' processors leave them."""
    chain = LogitsProcessorList()
    if s.repetition_penalty != 1:
        chain.append(RepetitionPenaltyLogitsProcessor(s.repetition_penalty))
    chain.append(TemperatureLogitsWarper(s.temperature))
    if s.top_k:
        chain.append(TopKLogitsWarper(s.top_k))
    if s.top_p < 1:
        chain.append(TopPLogitsWarper(s.top_p))
    if s.min_p > 0:
        chain.append(MinPLogitsWarper(s.min_p))
    return chain(torch.tensor([ids or [0]]), row[None].clone())[0].softmax(-1)


SETTINGS = st.builds(
    SamplingParams,
    temperature=st.floats(0.2, 3),
    top_k=st.sampled_from([0, 1, 5, 40, 400, 5000]),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 0.05]),
    min_p=st.sampled_from([0.0, 0.02, 0.3]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
)


@settings(max_examples=150, deadline=None)
@given(sampling=SETTINGS, seed=st.integers(0, 1000), at=st.floats(0, 1, exclude_max=True))
def test_samples_what_transformers_leaves(sampling: SamplingParams, seed: int, at: float) -> None:
    row = logits(1, seed)
    ids = [3, 9, 12]
    (sampled,) = sample(row.clone(), [row_for(sampling, at, tuple(ids))]).tokens
    left = processed(row[0], sampling, ids)
    assert left[sampled.token] > 0


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=0.7, top_k=7),
        SamplingParams(temperature=1.3, top_p=0.8),
        SamplingParams(temperature=1.0, min_p=0.1),
        SamplingParams(temperature=2.0, top_k=50, top_p=0.9, min_p=0.05),
        SamplingParams(temperature=2.0, top_k=400, top_p=0.5),
    ],
)
def test_shares_are_those_of_transformers(sampling: SamplingParams) -> None:
    """Evenly spaced numbers in place of random ones give every token its share, to the spacing."""
    row = logits(1, 4)
    count = 4000
    sampled = sample(row.expand(count, -1).clone(), [row_for(sampling, (i + 0.5) / count) for i in range(count)]).tokens
    shares = torch.bincount(torch.tensor([c.token for c in sampled]), minlength=VOCABULARY) / count
    assert (shares - processed(row[0], sampling, [])).abs().max() <= 2 / count


@settings(max_examples=40, deadline=None)
@given(mixture=st.lists(SETTINGS, min_size=1, max_size=6), seed=st.integers(0, 1000))
def test_a_row_does_not_depend_on_the_others(mixture: list[SamplingParams], seed: int) -> None:
    rows = logits(len(mixture), seed)
    inputs = [row_for(s, (seed % 97) / 97, (i, 5)) for i, s in enumerate(mixture)]
    together = [c.token for c in sample(rows.clone(), inputs).tokens]
    assert together == [sample(rows[i : i + 1].clone(), [one]).tokens[0].token for i, one in enumerate(inputs)]


def test_greedy_is_the_likeliest() -> None:
    rows = logits(3, 1)
    assert [c.token for c in sample(rows.clone(), [row_for(SamplingParams())] * 3).tokens] == rows.argmax(-1).tolist()


def test_penalties_and_biases() -> None:
    row = torch.zeros(1, VOCABULARY)
    row[0, [1, 2, 3]] = torch.tensor([5.0, 4.0, 3.0])

    def best(sampling: SamplingParams, output: tuple[int, ...]) -> int:
        return sample(row.clone(), [row_for(sampling, output=output)]).tokens[0].token

    assert best(SamplingParams(presence_penalty=1.5), (1,)) == 2
    assert best(SamplingParams(presence_penalty=1.5), ()) == 1
    assert best(SamplingParams(frequency_penalty=0.8), (1, 1, 1, 2)) == 2
    assert best(SamplingParams(logit_bias={3: 10.0}), ()) == 3
    assert best(SamplingParams(logit_bias={1: -100.0}), ()) == 2


def test_what_is_not_allowed_is_never_sampled() -> None:
    allowed = torch.zeros(VOCABULARY, dtype=torch.bool)
    allowed[[7, 8]] = True
    for sampling in (SamplingParams(), SamplingParams(temperature=5.0), SamplingParams(temperature=5.0, top_p=0.99)):
        inputs = [SamplingInput(sampling, Fixed(i / 20), (), (), allowed) for i in range(20)]  # type: ignore[arg-type]
        assert {c.token for c in sample(logits(20, 3), inputs).tokens} <= {7, 8}


def test_logprobs_are_those_before_any_setting() -> None:
    row = logits(1, 9)
    expected = row[0].log_softmax(-1)
    (sampled,) = sample(
        row.clone(), [row_for(SamplingParams(temperature=2.0, logit_bias={5: 50.0}, logprobs=3))]
    ).tokens
    assert sampled.token == 5
    assert sampled.logprob == pytest.approx(float(expected[5]), abs=1e-5)
    values, ids = expected.topk(3)
    assert [t for t, _ in sampled.top] == ids.tolist()
    assert [v for _, v in sampled.top] == pytest.approx(values.tolist(), abs=1e-5)


def test_a_seed_gives_the_same_numbers() -> None:
    rows = logits(1, 2)
    sampling = SamplingParams(temperature=1.0, seed=5)

    def text() -> list[int]:
        source = np.random.Generator(np.random.Philox(5))
        return [sample(rows.clone(), [SamplingInput(sampling, source, (), ())]).tokens[0].token for _ in range(10)]

    assert text() == text()


@settings(max_examples=60, deadline=None)
@given(
    words=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=3), min_size=1, max_size=6),
    output=st.lists(st.integers(0, 5), max_size=6),
    seed=st.integers(0, 100),
)
def test_bad_words_are_those_of_transformers(words: list[list[int]], output: list[int], seed: int) -> None:
    """The same tokens are left: a word's last token goes where the others stand before it."""
    row = torch.randn(1, 12, generator=torch.Generator().manual_seed(seed))
    ids = torch.tensor([[11, *output]])  # transformers looks at the prompt too: one token that is in no word
    left = NoBadWordsLogitsProcessor([list(word) for word in words], eos_token_id=10)(ids, row.clone())
    (sampled,) = sample(row.clone(), [row_for(SamplingParams(bad_words=BadWords(words)), output=tuple(output))]).tokens
    assert sampled.token == int(left.argmax())


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_a_least_length_is_that_of_transformers(count: int) -> None:
    row = torch.zeros(1, 10)
    row[0, [7, 8, 2]] = torch.tensor([9.0, 8.0, 7.0])
    ids = torch.tensor([[1, 1, *[2] * count]])
    left = MinNewTokensLengthLogitsProcessor(2, 3, [7, 8])(ids, row.clone())
    one = SamplingInput(SamplingParams(min_tokens=3, eos_token_ids=frozenset({7, 8})), None, (1, 1), [2] * count)
    assert sample(row.clone(), [one]).tokens[0].token == int(left.argmax()) == (2 if count < 3 else 7)


@pytest.mark.parametrize(
    "sampling", [SamplingParams(), SamplingParams(temperature=1.0), SamplingParams(temperature=1.0, top_p=0.5)]
)
def test_where_no_token_is_left_none_is_sampled(sampling: SamplingParams) -> None:
    """And the others of the batch are as they are alone."""
    rows = logits(2, 3)
    none = SamplingInput(sampling, Fixed(0.5), (), (), torch.zeros(VOCABULARY, dtype=torch.bool))  # type: ignore[arg-type]
    other = row_for(sampling)
    sampled = sample(rows.clone(), [none, other]).tokens
    assert sampled[0].token == NO_TOKEN
    assert sampled[1] == sample(rows[1:].clone(), [other]).tokens[0]


def test_a_share_of_nothing_is_the_likeliest() -> None:
    row = logits(1, 8)
    for at in (0.0, 0.5, 0.999):
        assert sample(row.clone(), [row_for(SamplingParams(temperature=2.0, top_p=0.0), at)]).tokens[0].token == int(
            row.argmax()
        )


@pytest.fixture(params=["host", "device"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The ways of the CPU, where numpy helps, and of all other devices, whose operators the CPU has too."""
    if request.param == "device":
        monkeypatch.setattr(sampler, "_on_host", lambda device: False)
    return str(request.param)


def packed(mask: torch.Tensor) -> torch.Tensor:
    bits = np.packbits(np.pad(mask.numpy(), (0, -len(mask) % 32)), bitorder="little")
    return torch.from_numpy(bits.view(np.int32))


@pytest.mark.parametrize("vocabulary", [50, 64, 256, 257, 1000, 5001])
def test_any_mixture_is_what_its_rows_are_one_by_one(vocabulary: int, way: str) -> None:
    source = random.Random(vocabulary)
    for _ in range(25):
        inputs = [any_input(vocabulary, source) for _ in range(source.randint(1, 12))]
        rows = different(len(inputs), vocabulary, source)
        expected = sample_row_by_row(rows, inputs)
        bits = [one._replace(constraint=None if one.constraint is None else packed(one.constraint)) for one in inputs]
        for given_ in (inputs, bits):
            output = sample(rows.clone(), given_)
            assert all(output.finite)
            assert [one.token for one in output.tokens] == [one.token for one in expected]
            for mine, other in zip(output.tokens, expected, strict=True):
                assert mine.logprob == pytest.approx(other.logprob, abs=1e-5)
                assert [token for token, _ in mine.top] == [token for token, _ in other.top]


def test_a_history_that_is_kept_tells_the_same() -> None:
    source = random.Random(3)
    prompt = [source.randrange(VOCABULARY) for _ in range(30)]
    params = SamplingParams(repetition_penalty=1.5, presence_penalty=0.5, frequency_penalty=1.0)
    history = TokenHistory(prompt)
    output: list[Any] = []
    for step in range(60):
        rows = logits(1, step) / 10
        kept = sample(rows.clone(), [SamplingInput(params, None, prompt, history.output, None, history)]).tokens
        anew = sample_row_by_row(rows, [SamplingInput(params, None, prompt, history.output)])
        assert kept == anew
        output += kept
        history.follow(output)


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=1.0, top_k=5)])
def test_of_equal_tokens_the_first_comes_first(params: SamplingParams, way: str) -> None:
    """However many there are: their order must not depend on how many are looked at first."""
    for equal in (range(VOCABULARY), range(7, 90), range(990, 1000)):
        row = torch.zeros(1, VOCABULARY).index_fill_(1, torch.tensor(equal), 1.0)
        (sampled,) = sample(row, [row_for(params, 0.5)]).tokens
        assert sampled.token == equal[2 if params.top_k else 0]


def test_the_likeliest_tokens_are_in_order(way: str) -> None:
    row = torch.zeros(1, VOCABULARY).index_fill_(1, torch.tensor([40, 3, 9]), 1.0)
    (sampled,) = sample(row, [row_for(SamplingParams(logprobs=2))]).tokens
    assert [token for token, _ in sampled.top] == [3, 9]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tells_which_rows_are_not_finite(value: float, way: str) -> None:
    for params in (SamplingParams(), SamplingParams(temperature=1.0, top_p=0.9), SamplingParams(logit_bias={3: 1.0})):
        rows = logits(3, 5)
        rows[1, 4] = value
        output = sample(rows.clone(), [row_for(params)] * 3)
        assert output.finite == [True, False, True]
        assert output.tokens[1].token == NO_TOKEN
        assert output.tokens[::2] == sample(rows[::2].clone(), [row_for(params)] * 2).tokens
    assert sample(torch.full((1, 9), -torch.inf), [row_for(SamplingParams())]).finite == [False]


def test_a_constraint_of_another_vocabulary_is_an_error() -> None:
    for mask in (torch.ones(VOCABULARY - 1, dtype=torch.bool), torch.zeros(5, dtype=torch.int32)):
        with pytest.raises(ValueError, match=r"a constraint is \(1000,\) bool or \(32,\) int32"):
            sample(logits(1, 1), [SamplingInput(SamplingParams(), None, (), (), mask)])


def test_no_rows_are_no_tokens() -> None:
    assert sample(torch.empty(0, 5), []) == ([], [])


class Operators(TorchDispatchMode):
    """Counts the operators that run, and refuses those that read single numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "_local_scalar_dense" not in str(func)
        if "detach" not in str(func):  # numpy's look at a tensor of the host
            self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where the host would wait for a device: a copy from it, of which each has so many words."""
    copied: list[int] = []
    cpu = torch.Tensor.cpu

    def counted(tensor: torch.Tensor) -> torch.Tensor:
        copied.append(tensor.numel())
        return cpu(tensor)

    def refused(tensor: torch.Tensor) -> Any:
        raise AssertionError("waits for a device")

    monkeypatch.setattr(torch.Tensor, "cpu", counted)
    monkeypatch.setattr(torch.Tensor, "tolist", refused)
    return copied


def test_greedy_costs_three_operators_and_one_wait(waits: list[int]) -> None:
    rows = logits(8, 1)
    with Operators() as operators:
        sample(rows, [row_for(SamplingParams())] * 8)
    assert {name: n for name, n in operators.counts.items() if not {"view", "empty"} & set(re.split(r"\W", name))} == {
        "aten.max.dim": 1,
        "aten._to_copy.default": 1,
        "aten.cat.default": 1,
    }
    assert len(waits) == 1


def test_operators_and_waits_do_not_grow_with_the_rows(way: str, waits: list[int]) -> None:
    source = random.Random(7)
    mixture = [any_input(5001, source) for _ in range(8)]
    mixture[0] = mixture[0]._replace(params=SamplingParams(temperature=3.0, top_p=0.999))  # needs the whole vocabulary
    rows = different(8, 5001, source)
    counts = []
    for times in (1, 8):
        with Operators() as operators:
            sample(rows.repeat(times, 1), mixture * times)
        counts.append(operators.counts)
        assert len(waits) == 2
        waits.clear()
    assert counts[0] == counts[1]


def test_one_wait_where_the_likeliest_tokens_are_enough(waits: list[int]) -> None:
    params = [
        SamplingParams(temperature=1.0, top_p=0.9),
        SamplingParams(temperature=1.0, top_k=20, logprobs=3),
        SamplingParams(temperature=1.0, min_p=0.1),
        SamplingParams(temperature=1.0, repetition_penalty=1.2),
    ]
    sample(logits(4, 3) * 3, [row_for(one, output=(1, 2)) for one in params])
    assert len(waits) == 1
