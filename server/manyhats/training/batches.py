"""A dataset as tokens, and packed batches of its examples within a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from manyhats.core.kinds.examples import EncodedExample
from manyhats.training.data import Dataset

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


@dataclass(frozen=True, slots=True)
class EncodedDataset:
    """A dataset as tokens."""

    train: list[EncodedExample]
    validation: list[EncodedExample]
    test: list[EncodedExample]

    @property
    def truncated(self) -> int:
        """How many inputs were longer than the limit."""
        return sum(example.truncated for split in (self.train, self.validation, self.test) for example in split)


def encode_dataset(
    dataset: Dataset, backbone: Backbone, max_tokens: int, template: str | None = None
) -> EncodedDataset:
    """All three splits as tokens; an input is truncated after `max_tokens`. `template`: of prompts, for kinds with one.

    Raises InvalidRequest where no target is left of an input.
    """
    train, validation, test = (
        dataset.kind.encode(examples, dataset.labels, backbone, max_tokens, template)
        for examples in (dataset.train, dataset.validation, dataset.test)
    )
    return EncodedDataset(train, validation, test)


def shuffled_batches(
    examples: Sequence[EncodedExample], budget: int, generator: torch.Generator
) -> list[list[EncodedExample]]:
    """Batches of at most `budget` tokens in a random order.

    A packed batch has no pads, so it may mix all lengths: the order is random, and no batch has short inputs only.
    """
    order = torch.randperm(len(examples), generator=generator).tolist()
    return [[examples[i] for i in batch] for batch in _within_budget(examples, order, budget)]


def ordered_batches(examples: Sequence[EncodedExample], budget: int) -> list[list[int]]:
    """Indices in batches of similar length, which minimises the groups of attention."""
    return _within_budget(examples, sorted(range(len(examples)), key=lambda i: examples[i].size), budget)


def _within_budget(examples: Sequence[EncodedExample], order: Sequence[int], budget: int) -> list[list[int]]:
    batches: list[list[int]] = []
    left = 0  # tokens of the last batch's budget
    for i in order:
        size = examples[i].size
        if size > left or not batches:
            batches.append([])
            left = max(budget, size)
        batches[-1].append(i)
        left -= size
    return batches
