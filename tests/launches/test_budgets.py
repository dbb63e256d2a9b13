"""Passes stay within their budgets of launches, copies, waits and Python calls; see `budgets`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import pytest
import torch
from manyhats.backbone import Backbone

from tests.launches.budgets import (
    DECODE,
    DECODE_LIMITS,
    DECODE_PYTHON,
    ENCODER,
    ENCODER_LIMITS,
    ENCODER_PYTHON,
    SAMPLED_LIMITS,
    Budget,
    Limits,
)
from tests.launches.device_counts import Count
from tests.launches.frames import frames_within
from tests.launches.measured import OnDevice
from tests.launches.passes import (
    ENCODER_SEQUENCES,
    STREAMS,
    Decoding,
    adapters_of,
    encoder_pass,
    min_tasks_of,
    tasks_of,
)

MANY = 128  # tasks, and as many sequences
SOME = 8  # tasks, and sequences of more: whether calls grow shows with fewer
CALLED = 64
IN_EVERY_RUN = ("lora", "bottleneck", "ia3", "mixture")  # and the others in the longest tests
LONG = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def encoder(base_folder: Callable[[str], Path]) -> OnDevice:
    return OnDevice(base_folder("bert"))


@pytest.fixture(scope="module")
def decoder(base_folder: Callable[[str], Path]) -> OnDevice:
    return OnDevice(base_folder("llama"))


@pytest.fixture(scope="module")
def bare_encoder(encoder: OnDevice) -> Callable[[int], Count]:
    """A pass over so many sequences without adapters."""
    return cache(lambda sequences: encoder.encoder("bare", 1, sequences))


@pytest.fixture(scope="module")
def bare_decoder(decoder: OnDevice) -> Callable[[int], Count]:
    return cache(lambda streams: decoder.decode("bare", 1, streams))


def assert_within(count: Count, bare: Count, limits: Limits, budget: Budget, tasks: int) -> None:
    """Beyond the bare pass no more kernels than the method has, and in all no more copies and waits."""
    more = count.kernels.total() - bare.kernels.total()
    assert more <= budget.kernels + budget.per_task * (tasks - 1) + 1e-6, count.report()
    assert count.copies.total() <= limits.copies + budget.copies, count.report()
    assert count.waits.total() <= limits.waits + budget.waits, count.report()
    assert count.blocking_copies.total() <= budget.copies, count.report()


def test_every_method_has_a_budget(encoder: OnDevice, decoder: OnDevice) -> None:
    assert {"bare", *ENCODER} == {"mixture", *encoder.adapters}
    assert {"bare", *DECODE} == {"mixture", *decoder.adapters}


def test_a_pass_without_adapters_stays_within_its_limits(
    bare_encoder: Callable[[int], Count], bare_decoder: Callable[[int], Count], decoder: OnDevice
) -> None:
    for count, limits in (
        (bare_encoder(ENCODER_SEQUENCES), ENCODER_LIMITS),
        (bare_decoder(STREAMS), DECODE_LIMITS),
        (decoder.decode("bare", sampled=True), SAMPLED_LIMITS),
    ):
        assert count.kernels.total() <= limits.kernels, count.report()
        assert count.copies.total() <= limits.copies, count.report()
        assert count.waits.total() <= limits.waits, count.report()
        assert not count.blocking_copies, count.report()


@pytest.mark.parametrize("tasks", [pytest.param(1, marks=LONG), 32])
@pytest.mark.parametrize("name", ENCODER)
def test_an_encoder_pass_stays_within_its_budget(
    name: str, tasks: int, encoder: OnDevice, bare_encoder: Callable[[int], Count]
) -> None:
    count = encoder.encoder(name, tasks)
    assert_within(count, bare_encoder(ENCODER_SEQUENCES), ENCODER_LIMITS, ENCODER[name], tasks)


@pytest.mark.parametrize("tasks", [pytest.param(1, marks=LONG), 32])
@pytest.mark.parametrize("name", DECODE)
def test_a_decode_step_stays_within_its_budget(
    name: str, tasks: int, decoder: OnDevice, bare_decoder: Callable[[int], Count]
) -> None:
    count = decoder.decode(name, tasks)
    assert_within(count, bare_decoder(STREAMS), DECODE_LIMITS, DECODE[name], tasks)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "mixture"])
def test_many_tasks_cost_no_more_than_their_budget(
    name: str,
    encoder: OnDevice,
    bare_encoder: Callable[[int], Count],
    decoder: OnDevice,
    bare_decoder: Callable[[int], Count],
) -> None:
    assert_within(encoder.encoder(name, MANY, MANY), bare_encoder(MANY), ENCODER_LIMITS, ENCODER[name], MANY)
    assert_within(decoder.decode(name, MANY, MANY), bare_decoder(MANY), DECODE_LIMITS, DECODE[name], MANY)


def python_calls(backbone: Backbone, run: Callable[[], object]) -> int:
    """Python functions called at the sites in one pass, those of the kernels left out."""
    with torch.inference_mode():
        run()
        with frames_within(type(backbone).encode.__code__, without="manyhats/kernels/") as calls:
            run()
    assert calls
    return calls.total()


def tried(names: Iterable[str]) -> list[object]:
    """Of these methods some in every run, all in the longest tests."""
    return [pytest.param(name, marks=[] if name in IN_EVERY_RUN else LONG) for name in names]


@pytest.mark.parametrize("name", tried(ENCODER))
def test_the_calls_at_the_sites_of_an_encoder_do_not_grow(name: str, bert: Backbone) -> None:
    adapters = adapters_of(bert)
    passes = [
        encoder_pass(bert, tasks_of(bert, adapters, name, tasks), CALLED)
        for tasks in (min_tasks_of(name), SOME, CALLED)
    ]
    assert_calls_stay([python_calls(bert, run) for run in passes], ENCODER_PYTHON.get(name, 0), min_tasks_of(name))


@pytest.mark.parametrize("name", tried(DECODE))
def test_the_calls_at_the_sites_of_a_decoder_do_not_grow(name: str, load_backbone: Callable[[str], Backbone]) -> None:
    backbone = load_backbone("llama")
    adapters = adapters_of(backbone)
    with torch.inference_mode():
        steps = [
            Decoding(backbone, tasks_of(backbone, adapters, name, tasks), CALLED).step
            for tasks in (min_tasks_of(name), SOME, CALLED)
        ]
    assert_calls_stay([python_calls(backbone, step) for step in steps], DECODE_PYTHON.get(name, 0), min_tasks_of(name))


def assert_calls_stay(calls: list[int], per_task: float, min_tasks: int) -> None:
    """The same for 1, 8 and 64 tasks, but for so many calls for each further task."""
    one, some, many = calls
    assert some <= one + per_task * (SOME - min_tasks)
    assert many <= one + per_task * (CALLED - min_tasks)
