"""From the engine's arrays to answers, one function for each kind of task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manyhats.backbone import Encoded, Text
from manyhats.serving.parameters import (
    ClassifyParameters,
    EmbedParameters,
    Parameters,
    SpanParameters,
    TokensParameters,
)
from manyhats.serving.scores import softmax
from manyhats.serving.spans import span_answer

Array = NDArray[np.float32]
Answer = dict[str, Any]

_FIELDS_OF_TOKEN = 32  # what they cost, in numbers


def label_names(labels: Sequence[str] | None, count: int) -> list[str]:
    """The task's labels, or `LABEL_0`, `LABEL_1`, ..."""
    return list(labels) if labels is not None else [f"LABEL_{i}" for i in range(count)]


def render(
    kind: str,
    output: Array,
    parameters: Parameters,
    *,
    labels: Sequence[str] | None,
    text: Text,
    encoded: Encoded,
) -> Answer:
    """One answer of the given kind (api.md, the table of kinds)."""
    if isinstance(parameters, ClassifyParameters):
        return _classify(output, parameters, label_names(labels, len(output)))
    if isinstance(parameters, TokensParameters):
        return _tokens(output, parameters, label_names(labels, output.shape[-1]), text, encoded)
    if isinstance(parameters, SpanParameters):
        return span_answer(output, parameters, text, encoded)
    if isinstance(parameters, EmbedParameters):
        return {"embedding": (_unit(output) if parameters.normalize else output).tolist()}
    return {"value": float(output[0])}


def rendering_cost(parameters: Parameters, output: Array) -> int:
    """Roughly how many values are gone through to render an output, and to write it as JSON.

    A token becomes an object of several fields, and of a span's logits a table is made of every start and end.
    """
    if isinstance(parameters, TokensParameters):
        return len(output) * (int(output.shape[-1]) + _FIELDS_OF_TOKEN)
    if isinstance(parameters, SpanParameters):
        return len(output) ** 2
    return int(output.size)


def _sigmoid(logits: Array) -> Array:
    return (0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64)))).astype(np.float32)


def _unit(vectors: Array) -> Array:
    """Vectors of length one; a zero vector stays."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Array = vectors / np.maximum(norms, 1e-12)
    return unit


def _classify(logits: Array, parameters: ClassifyParameters, names: list[str]) -> Answer:
    scores = _sigmoid(logits) if parameters.multi_label else softmax(logits).astype(np.float32)
    best = int(scores.argmax())
    shown = range(len(names)) if parameters.top_k is None else np.argsort(-scores, kind="stable")[: parameters.top_k]
    answer: Answer = {
        "label": names[best],
        "score": float(scores[best]),
        "scores": {names[i]: float(scores[i]) for i in shown},
    }
    if parameters.multi_label:
        answer["labels"] = [name for name, score in zip(names, scores, strict=True) if score >= 0.5]
    if parameters.logits:
        answer["logits"] = logits.tolist()
    return answer


# ---- tokens


def _tokens(logits: Array, parameters: TokensParameters, names: list[str], text: Text, encoded: Encoded) -> Answer:
    scores = softmax(logits).astype(np.float32)
    real = [i for i, special in enumerate(encoded.special) if not special]
    sources = (text.text, text.pair or "")

    def piece(i: int) -> str:
        start, end = encoded.offsets[i]
        return sources[encoded.sequence_ids[i] or 0][start:end]

    tokens = []
    for i in real:
        best = int(scores[i].argmax())
        start, end = encoded.offsets[i]
        tokens.append(
            {"text": piece(i), "start": start, "end": end, "label": names[best], "score": float(scores[i, best])}
        )
    answer: Answer = {"tokens": tokens, "entities": _entities(scores, names, parameters.aggregation, sources, encoded)}
    if parameters.logits:
        answer["logits"] = logits.tolist()
    return answer


def _entities(
    scores: Array, names: list[str], aggregation: str, sources: tuple[str, str], encoded: Encoded
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


def _units(scores: Array, aggregation: str, encoded: Encoded) -> list[tuple[list[int], Array]]:
    """What gets one label each: tokens or words, with their scores."""
    real = [i for i, special in enumerate(encoded.special) if not special]
    if aggregation in ("none", "simple"):
        return [([i], scores[i]) for i in real]
    words: list[list[int]] = []
    for i in real:
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
