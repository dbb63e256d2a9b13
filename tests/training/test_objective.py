"""Losses: what a step is made of."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from accelerate.state import AcceleratorState
from manyhats.backbone import Backbone
from manyhats.core.kinds.examples import EncodedExample
from manyhats.errors import InvalidRequest
from manyhats.training.objective import balanced, batch_loss
from manyhats.training.trainer import Trainer

from tests.training.samples import LABELS, encoded_examples
from tests.training.test_trainer import _schedule


def _gradient(trainer: Trainer, groups: list[list[EncodedExample]]) -> torch.Tensor:
    """Of one step over these batches."""
    trainer._dropping.manual_seed(0)
    learner = trainer.learner
    learner.zero_grad()
    total = sum(trainer.kind.target_count(group) for group in groups)
    for group in groups:
        learner(group, trainer.kind.target_count(group) / total).backward()
    return torch.cat([p.grad.reshape(-1) for p in learner.parameters() if p.grad is not None])


@pytest.mark.parametrize("kind", ["classify", "multilabel", "regress", "rerank", "tokens", "span"])
def test_accumulated_batches_are_one_large_one(bert: Backbone, kind: str) -> None:
    trainer = Trainer(bert, "lora", kind, len(LABELS), _schedule("lora", dropout=0.0))
    own = encoded_examples(bert, kind, 12, 0)
    whole = _gradient(trainer, [own])
    torch.testing.assert_close(_gradient(trainer, [own[:3], own[3:8], own[8:]]), whole, atol=1e-6, rtol=1e-4)


def test_class_weights_count(bert: Backbone) -> None:
    own = encoded_examples(bert, "classify", 12, 0)
    rare = [item for item in own if item.target == 1]
    plain, weighted = (
        Trainer(bert, "lora", "classify", 2, _schedule("lora", dropout=0.0), class_weights=weights)
        for weights in (None, [1.0, 9.0])
    )

    def loss(trainer: Trainer, some: list[EncodedExample]) -> float:
        return batch_loss(bert, trainer.bound(), trainer.kind, some, trainer.class_weights).item()

    losses = [loss(trainer, own) for trainer in (plain, weighted)]
    means = [loss(plain, [item for item in own if item.target == c]) for c in (0, 1)]
    share = 9 * len(rare) / (9 * len(rare) + len(own) - len(rare))
    assert losses[1] == pytest.approx(share * means[1] + (1 - share) * means[0], rel=1e-4)
    assert losses[0] != pytest.approx(losses[1])


def test_balanced_weights() -> None:
    assert balanced([1, 3]) == [2.0, pytest.approx(2 / 3)]


@pytest.fixture
def anew() -> Iterator[None]:
    """accelerate keeps a process's precision."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


RECIPES_IN_BFLOAT16 = [
    *("lora", "dora", "vera", "houlsby", "compacter", "invertible", "mam", "unipelt", "prefix", "prompt", "ia3"),
    *("mask", "bitfit", "side", "sparse"),
]


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize("recipe", RECIPES_IN_BFLOAT16)
def test_steps_in_bfloat16(bert: Backbone, recipe: str) -> None:
    """The weights stay in float32, and move."""
    trainer = Trainer(bert, recipe, "classify", 2, _schedule(recipe, epochs=1), precision="bf16")
    before = [p.detach().clone() for p in trainer.head.parameters()]
    outcome = trainer.run(encoded_examples(bert, "classify", 20, 0), encoded_examples(bert, "classify", 8, 1))
    assert all(math.isfinite(loss) for loss in outcome.losses)
    weights = [*trainer.trainable.parameters(), *trainer.head.parameters()]
    assert all(p.dtype == torch.float32 and bool(torch.isfinite(p).all()) for p in weights)
    assert not any(torch.equal(p, own) for p, own in zip(trainer.head.parameters(), before, strict=True))


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize(
    "recipe", [r if r == "lora" else pytest.param(r, marks=pytest.mark.slow) for r in RECIPES_IN_BFLOAT16]
)
def test_bfloat16_learns_too(bert: Backbone, recipe: str) -> None:
    trainer = Trainer(bert, recipe, "classify", 2, _schedule(recipe, epochs=3), precision="bf16")
    outcome = trainer.run(encoded_examples(bert, "classify", 120, 0), encoded_examples(bert, "classify", 40, 1))
    assert outcome.losses[-1] < outcome.losses[0]


def test_memory_that_ends_says_what_to_lower(bert: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(*_: object) -> torch.Tensor:
        return torch.empty(1 << 60)

    monkeypatch.setattr("manyhats.training.learner.batch_loss", loss)
    trainer = Trainer(bert, "lora", "classify", 2, _schedule("lora"))
    with pytest.raises(
        InvalidRequest, match=r"out of memory at step 1, in a batch of \d+ tokens: lower --batch-size or --batch-tokens"
    ):
        trainer.run(encoded_examples(bert, "classify", 20, 0), encoded_examples(bert, "classify", 10, 1))
