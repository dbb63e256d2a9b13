"""A label for each token, and entities of adjacent tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from manyhats.backbone import Text
from manyhats.core.kinds.base import Answer, HeadSpec, Kind, LibraryNames, Output, Parameters, Rendered, Settings
from manyhats.core.kinds.baselines import Baseline, TokenProbe, commonest_answer
from manyhats.core.kinds.examples import IGNORED, Columns, DataRow, EncodedExample, Example, Label, NonEmptyText
from manyhats.core.kinds.metrics import Metric, Score, accuracy, share
from manyhats.core.kinds.scores import label_names, softmax
from manyhats.core.kinds.training import LabelledTraining, TargetScale
from manyhats.errors import InvalidRequest

if TYPE_CHECKING:
    from manyhats.backbone import Backbone, Encoded

Aggregation = Literal["none", "simple", "first", "average", "max", "word"]
_FIELDS_OF_TOKEN = 32  # the cost of a token's object, in values


class TokensParameters(Parameters):
    """`aggregation`: how tokens become entities (see `_entities`)."""

    logits: bool = False
    aggregation: Aggregation = "simple"


class Tokens(Kind[TokensParameters]):
    """One of the head's labels for each token."""

    name = "tokens"
    head = HeadSpec(reads=("tokens",))
    fields = (("tokens", "json"), ("entities", "json"))
    parameters = TokensParameters
    libraries = LibraryNames(
        peft="TOKEN_CLS",
        model_classes=("ForTokenClassification",),
        auto_class="AutoModelForTokenClassification",
        adapterhub=("tagging",),
        pipeline="token-classification",
    )

    def render(self, output: Output, parameters: TokensParameters, rendered: Rendered) -> Answer:
        """Every token with its best label, and the entities. output: (tokens, labels)."""
        names, encoded = label_names(rendered.labels, output.shape[-1]), rendered.encoded
        sources = (rendered.text.text, rendered.text.pair or "")
        scores = softmax(output).astype(np.float32)
        tokens = []
        for i in _of_text(encoded):
            best = int(scores[i].argmax())
            start, end = encoded.offsets[i]
            tokens.append(
                {
                    "text": sources[encoded.sequence_ids[i] or 0][start:end],
                    "start": start,
                    "end": end,
                    "label": names[best],
                    "score": float(scores[i, best]),
                }
            )
        entities = _entities(scores, names, parameters.aggregation, sources, encoded)
        answer: Answer = {"tokens": tokens, "entities": entities}
        if parameters.logits:
            answer["logits"] = output.tolist()
        return answer

    def agrees(self, answer: Answer, other: Answer, tolerance: float) -> bool:
        """The same entities at the same places."""
        own, others = (
            [(entity["entity_group"], entity["start"], entity["end"]) for entity in one["entities"]]
            for one in (answer, other)
        )
        return own == others

    def rendering_cost(self, output: Output, parameters: TokensParameters) -> int:
        """A token becomes an object of several fields."""
        return len(output) * (int(output.shape[-1]) + _FIELDS_OF_TOKEN)


def _of_text(encoded: Encoded) -> list[int]:
    """The tokens of the text, without special tokens."""
    return [i for i, special in enumerate(encoded.special) if not special]


def _entities(
    scores: Output, names: list[str], aggregation: Aggregation, sources: tuple[str, str], encoded: Encoded
) -> list[Answer]:
    """Groups tokens into entities, with transformers' strategies and `word`.

    `none`: every token separately. `simple`: adjacent tokens of one entity. `first`, `average`, `max`: a label for each
    word first (its first token's, the mean of its scores, its surest token's), then as `simple`. `word`: the word's
    first token's label, not joined. Tokens of the class `O` are left out.
    """
    units = _units(scores, aggregation, encoded)
    groups: list[tuple[str, int, int, int, list[float]]] = []  # entity, text or pair, start, end, scores
    for members, row in units:
        best = int(row.argmax())
        begin, entity = _split_label(names[best])
        source = encoded.sequence_ids[members[0]] or 0
        start, end = encoded.offsets[members[0]][0], encoded.offsets[members[-1]][1]
        joins = aggregation not in ("none", "word") and not begin
        if joins and groups and groups[-1][0] == entity and groups[-1][1] == source:
            _, _, first, _, values = groups[-1]
            groups[-1] = (entity, source, first, end, [*values, float(row[best])])
        else:
            groups.append((entity, source, start, end, [float(row[best])]))
    return [
        {
            "entity_group": entity,
            "word": sources[source][start:end],
            "start": start,
            "end": end,
            "score": float(np.mean(values)),
        }
        for entity, source, start, end, values in groups
        if entity != "O"
    ]


def _units(scores: Output, aggregation: Aggregation, encoded: Encoded) -> list[tuple[list[int], Output]]:
    """The units with one label each, tokens or words, and their scores."""
    own = _of_text(encoded)
    if aggregation in ("none", "simple"):
        return [([i], scores[i]) for i in own]
    words: list[list[int]] = []
    for i in own:
        before = words[-1][-1] if words else None
        same = before is not None and (encoded.words[i], encoded.sequence_ids[i]) == (
            encoded.words[before],
            encoded.sequence_ids[before],
        )
        if same:
            words[-1].append(i)
        else:
            words.append([i])
    match aggregation:
        case "average":
            return [(word, scores[word].mean(0)) for word in words]
        case "max":
            return [(word, scores[word[int(scores[word].max(1).argmax())]]) for word in words]
        case _:
            return [(word, scores[word[0]]) for word in words]


def _split_label(label: str) -> tuple[bool, str]:
    """Whether a label begins an entity (`B-PER`), and the entity (`PER`)."""
    if label[:2] in ("B-", "I-"):
        return label[0] == "B", label[2:]
    return False, label


def _words(value: Any) -> Any:
    """A list of words, or one text with spaces between them."""
    return value.split() if isinstance(value, str) else value


class TaggedRow(DataRow):
    """Words, with a tag for each."""

    words: Annotated[list[NonEmptyText], BeforeValidator(_words), Field(min_length=1)]
    target: Annotated[list[Label], BeforeValidator(_words)]

    @model_validator(mode="after")
    def _same_length(self) -> TaggedRow:
        if len(self.words) != len(self.target):
            raise ValueError(f"there are {len(self.words)} words, but {len(self.target)} tags")
        return self

    def example(self) -> Example:
        return Example("", None, tuple(self.words), tuple(self.target))


class TokensTraining(LabelledTraining):
    """A tag for every word: cross entropy at each word's first token."""

    name = "tokens"
    served_as = Tokens()
    row = TaggedRow
    metric = Metric("accuracy per word", "accuracy", proportion=True, more_is_better=True)
    unit = "words"
    notes = ("Words of one sentence are not independent, so the interval is narrower than it should be.",)
    probe = TokenProbe(metric)

    def columns(self, columns: Columns) -> dict[str, str]:
        return {"words": columns.tokens, "target": columns.tags}

    def encode(
        self,
        examples: Sequence[Example],
        labels: Sequence[str],
        backbone: Backbone,
        max_tokens: int,
        template: str | None = None,
    ) -> list[EncodedExample]:
        index = {label: i for i, label in enumerate(labels)}
        return [self._encoded(example, index, backbone, max_tokens) for example in examples]

    def _encoded(self, example: Example, index: dict[str, int], backbone: Backbone, max_tokens: int) -> EncodedExample:
        encoded = backbone.tokenizer.encode_words(example.words, max_tokens)
        tags = self.labels(example)
        target: list[int] = []
        last: int | None = None
        for word in encoded.words:
            target.append(IGNORED if word is None or word == last else index[tags[word]])
            last = word
        if all(t == IGNORED for t in target):
            raise InvalidRequest(f"no word of the row '{' '.join(example.words)[:60]}' has a token", param="tokens")
        return EncodedExample(encoded.ids, encoded.type_ids, target, encoded.full_length > len(encoded.ids))

    def target_count(self, batch: Sequence[EncodedExample]) -> int:
        return sum(t != IGNORED for example in batch for t in example.target)  # type: ignore[union-attr]

    def loss(
        self,
        outputs: Sequence[Tensor],
        batch: Sequence[EncodedExample],
        weights: Tensor | None = None,
        scale: TargetScale | None = None,
    ) -> Tensor:
        targets = torch.tensor([t for example in batch for t in example.target], device=outputs[0].device)  # type: ignore[union-attr]
        return F.cross_entropy(torch.cat(list(outputs)).float(), targets, weights, ignore_index=IGNORED)

    def score(self, outputs: Sequence[Tensor], examples: Sequence[EncodedExample]) -> Score:
        return accuracy(self.metric, outputs, examples)

    def check_served(self, settings: Settings) -> None:
        if getattr(settings, "template", None):
            raise InvalidRequest(
                "words that a template is put around cannot be found again in the answers", param="template"
            )

    def questions(self, examples: Sequence[Example]) -> list[Text]:
        return [Text(" ".join(example.words)) for example in examples]

    def judged(self, answers: Sequence[Answer], examples: Sequence[Example]) -> Score:
        """A word's label is that of its first token; words that were cut off are not judged."""
        right = []
        for answer, example in zip(answers, examples, strict=True):
            labels = {token["start"]: token["label"] for token in answer["tokens"]}
            start = 0
            for word, tag in zip(example.words, self.labels(example), strict=True):
                label = labels.get(start, labels.get(start - 1))  # some tokens begin with the space before
                right += [] if label is None else [label == tag]
                start += len(word) + 1
        return share(self.metric, right)

    def constant_baseline(self, train: Sequence[EncodedExample], test: Sequence[EncodedExample]) -> Baseline:
        return commonest_answer(self.metric, train, test)
