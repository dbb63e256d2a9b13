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


# The batch size for so many training rows, in order; beyond the last row count the last one holds. docs/training.md has
# the measurements.
_SIZES = ((150, 4), (1000, 8), (4000, 16))
_LARGEST = 32
BATCH_TOKENS = 4096  # of a batch at most whose size is in rows; for memory


def batch_size_for(rows: int) -> int:
    """The rows of a batch that suit so many rows to train on: with few rows small ones, which make more steps."""
    return next((size for most, size in _SIZES if rows <= most), _LARGEST)


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
    examples: Sequence[EncodedExample], budget: int, generator: torch.Generator, most: int | None = None
) -> list[list[EncodedExample]]:
    """Batches of at most `budget` tokens, and at most `most` examples, in a random order.

    A packed batch has no pads, so it may mix all lengths: the order is random, and no batch has short inputs only.
    """
    order = torch.randperm(len(examples), generator=generator).tolist()
    return [[examples[i] for i in batch] for batch in _within_budget(examples, order, budget, most)]


def ordered_batches(examples: Sequence[EncodedExample], budget: int) -> list[list[int]]:
    """Indices in batches of similar length, which minimises the groups of attention."""
    return _within_budget(examples, sorted(range(len(examples)), key=lambda i: examples[i].size), budget)


def _within_budget(
    examples: Sequence[EncodedExample], order: Sequence[int], budget: int, most: int | None = None
) -> list[list[int]]:
    batches: list[list[int]] = []
    left = 0  # tokens of the last batch's budget
    for i in order:
        size = examples[i].size
        if not batches or size > left or len(batches[-1]) == most:
            batches.append([])
            left = max(budget, size)
        batches[-1].append(i)
        left -= size
    return batches
