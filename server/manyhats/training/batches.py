"""Examples as tokens and targets, and packed batches of them within a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from manyhats.backbone import Text
from manyhats.errors import InvalidRequest
from manyhats.training.data import Dataset
from manyhats.training.rows import Example, Place, TaskKind

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

# Target of a token that is not judged: special tokens, and all but the first token of a word.
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Item:
    """One example as tokens. `target`: the class's index, the number, or an index (or IGNORED) for every token; for
    `multilabel` a 0 or 1 for every label, for `span` the first and the last token of the answer.

    For `generate` the ids are prompt and answer, and `target` the answer's tokens, which `asked` names the places of:
    each stands behind the tokens that it is to be told from. `context`: for `span` the tokens that may hold the answer.
    `other`: for `embed` the text that belongs to this one.
    """

    ids: list[int]
    type_ids: list[int]
    target: int | float | list[int]
    cut: bool  # whether it had more tokens than were kept
    asked: tuple[int, ...] = ()
    context: slice = field(default_factory=lambda: slice(0))
    other: Item | None = None

    @property
    def size(self) -> int:
        """How many tokens it takes of a batch."""
        return len(self.ids) + (0 if self.other is None else len(self.other.ids))


@dataclass(frozen=True, slots=True)
class Items:
    """A dataset as tokens."""

    train: list[Item]
    validation: list[Item]
    test: list[Item]

    @property
    def cut(self) -> int:
        """How many inputs were longer than the limit."""
        return sum(item.cut for part in (self.train, self.validation, self.test) for item in part)


def encode_dataset(dataset: Dataset, backbone: Backbone, max_tokens: int, template: str | None = None) -> Items:
    """All three parts as tokens; an input is cut after `max_tokens`. `template`: for `{text}` of `generate`."""

    def encode(examples: list[Example]) -> list[Item]:
        if dataset.kind == "generate":
            return _answered(examples, backbone, max_tokens, template or "{text}")
        return encode_examples(examples, dataset.kind, dataset.labels, backbone, max_tokens)

    return Items(encode(dataset.train), encode(dataset.validation), encode(dataset.test))


def encode_examples(
    examples: Sequence[Example], kind: TaskKind, labels: Sequence[str], backbone: Backbone, max_tokens: int
) -> list[Item]:
    """Tokens and targets. Raises InvalidRequest where not a single word of an input is left."""
    index = {label: i for i, label in enumerate(labels)}
    if kind == "tokens":
        return [_tagged(example, index, backbone, max_tokens) for example in examples]
    if kind == "embed":
        return _pairs(examples, backbone, max_tokens)
    if kind == "span":
        return _spans(examples, backbone, max_tokens)
    encoded = backbone.tokenizer.encode([Text(e.text, e.pair) for e in examples], max_tokens)
    return [
        Item(
            ids=e.ids,
            type_ids=e.type_ids,
            target=_target(example, kind, index),
            cut=e.full_length > len(e.ids),
        )
        for e, example in zip(encoded, examples, strict=True)
    ]


def _target(example: Example, kind: TaskKind, index: dict[str, int]) -> int | float | list[int]:
    if kind == "regress":
        return float(example.target)  # type: ignore[arg-type]
    if kind == "multilabel":
        assert isinstance(example.target, tuple)
        return [int(label in example.target) for label in index]
    return index[str(example.target)]


def _pairs(examples: Sequence[Example], backbone: Backbone, max_tokens: int) -> list[Item]:
    """Both texts of a pair, each by itself."""

    def encode(texts: list[str]) -> list[Item]:
        encoded = backbone.tokenizer.encode([Text(text) for text in texts], max_tokens)
        return [Item(e.ids, e.type_ids, 0, e.full_length > len(e.ids)) for e in encoded]

    others = encode([example.pair or "" for example in examples])
    return [
        replace(item, other=other, cut=item.cut or other.cut)
        for item, other in zip(encode([example.text for example in examples]), others, strict=True)
    ]


def _spans(examples: Sequence[Example], backbone: Backbone, max_tokens: int) -> list[Item]:
    """An answer that lies behind the limit is no target in training, and counts as missed where it is judged."""
    items = []
    encoded = backbone.tokenizer.encode([Text(e.text, e.pair) for e in examples], max_tokens)
    for e, example in zip(encoded, examples, strict=True):
        assert isinstance(example.target, Place)
        answer = example.target
        context = [i for i, sequence in enumerate(e.sequence_ids) if sequence == 1]
        inside = [i for i in context if e.offsets[i][1] > answer.start and e.offsets[i][0] < answer.end]
        whole = bool(inside) and e.offsets[inside[-1]][1] >= answer.end
        target = [inside[0], inside[-1]] if whole else [IGNORED, IGNORED]
        place = slice(context[0], context[-1] + 1) if context else slice(0)
        items.append(Item(e.ids, e.type_ids, target, e.full_length > len(e.ids), context=place))
    if all(item.target == [IGNORED, IGNORED] for item in items):
        raise InvalidRequest(
            f"no answer lies within the first {max_tokens} tokens of question and context", param="max_tokens"
        )
    return items


def _answered(examples: Sequence[Example], backbone: Backbone, max_tokens: int, template: str) -> list[Item]:
    """Prompt, answer and, where the backbone has one, the token that ends a text."""
    prompts = backbone.tokenizer.encode([Text(template.replace("{text}", e.text), e.pair) for e in examples], 1 << 30)
    end = sorted(backbone.eos_token_ids)[:1]
    items = []
    for prompt, example in zip(prompts, examples, strict=True):
        answer = [*backbone.tokenizer.encode_bare(str(example.target), 1 << 30).ids, *end]
        ids = [*prompt.ids, *answer]
        kept = ids[:max_tokens]
        if len(kept) <= len(prompt.ids):
            raise InvalidRequest(
                f"the prompt '{example.text[:60]}' has {len(prompt.ids)} tokens; max-tokens is {max_tokens}, which "
                "leaves no room for its answer",
                param="max_tokens",
            )
        asked = tuple(range(len(prompt.ids) - 1, len(kept) - 1))
        items.append(Item(kept, [0] * len(kept), kept[len(prompt.ids) :], len(ids) > len(kept), asked))
    return items


def _tagged(example: Example, index: dict[str, int], backbone: Backbone, max_tokens: int) -> Item:
    e = backbone.tokenizer.encode_words(example.words, max_tokens)
    assert isinstance(example.target, tuple)
    target: list[int] = []
    last: int | None = None
    for word in e.words:
        target.append(IGNORED if word is None or word == last else index[example.target[word]])
        last = word
    if all(t == IGNORED for t in target):
        raise InvalidRequest(f"no word of the row '{' '.join(example.words)[:60]}' has a token", param="tokens")
    return Item(e.ids, e.type_ids, target, e.full_length > len(e.ids))


def shuffled_batches(items: Sequence[Item], budget: int, generator: torch.Generator) -> list[list[Item]]:
    """Batches of at most `budget` tokens in a random order.

    A packed batch has no pads, so inputs of all lengths may stand in one: the order is random throughout, and no
    batch holds short inputs only.
    """
    order = torch.randperm(len(items), generator=generator).tolist()
    return [[items[i] for i in batch] for batch in _cut(items, order, budget)]


def ordered_batches(items: Sequence[Item], budget: int) -> list[list[int]]:
    """Indices in batches of similar length, which makes the fewest attention buckets."""
    return _cut(items, sorted(range(len(items)), key=lambda i: items[i].size), budget)


def _cut(items: Sequence[Item], order: Sequence[int], budget: int) -> list[list[int]]:
    batches: list[list[int]] = []
    room = 0
    for i in order:
        size = items[i].size
        if size > room or not batches:
            batches.append([])
            room = max(budget, size)
        batches[-1].append(i)
        room -= size
    return batches
