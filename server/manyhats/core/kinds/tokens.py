"""A label for each token, and the entities that neighbouring tokens make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from manyhats.core.kinds.base import Answer, HeadSpec, Kind, LibraryNames, Output, Parameters, Rendered
from manyhats.core.kinds.scores import label_names, softmax

if TYPE_CHECKING:
    from manyhats.backbone import Encoded

Aggregation = Literal["none", "simple", "first", "average", "max", "word"]
_FIELDS_OF_TOKEN = 32  # what the fields of a token's object cost, in numbers


class TokensParameters(Parameters):
    """`aggregation`: how tokens become entities (see `_entities`)."""

    logits: bool = False
    aggregation: Aggregation = "simple"


class Tokens(Kind[TokensParameters]):
    """One of the head's labels for each token."""

    name = "tokens"
    head = HeadSpec(reads=("tokens",))
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

    def rendering_cost(self, output: Output, parameters: TokensParameters) -> int:
        """A token becomes an object of several fields."""
        return len(output) * (int(output.shape[-1]) + _FIELDS_OF_TOKEN)


def _of_text(encoded: Encoded) -> list[int]:
    """The tokens that belong to the text itself."""
    return [i for i, special in enumerate(encoded.special) if not special]


def _entities(
    scores: Output, names: list[str], aggregation: Aggregation, sources: tuple[str, str], encoded: Encoded
) -> list[Answer]:
    """Groups tokens into entities, with transformers' strategies and `word`.

    `none`: every token by itself. `simple`: neighbours of one entity. `first`, `average`, `max`: a label for each
    word first (its first token's, the mean of its scores, its surest token's), then as `simple`. `word`: the word's
    first token's label, neighbours not joined. Tokens of the class `O` are left out.
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
    """What gets one label each: tokens or words, with their scores."""
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
