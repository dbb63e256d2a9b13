"""What Hugging Face's clients get, by pipeline."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, RootModel

from manyhats.api.labels import LabelScore
from manyhats.api.lorax_pooled import Entity
from manyhats.api.schemas import AnswerBody


class EntityGroup(AnswerBody):
    """An entity."""

    entity_group: str
    score: float
    word: str
    start: int
    end: int


class SpanAnswer(AnswerBody):
    """An answer within a context."""

    answer: str
    score: float
    start: int
    end: int


class Filled(AnswerBody):
    """A token in the place of a mask."""

    score: float
    token: int
    token_str: str
    sequence: str


class GeneratedText(AnswerBody):
    """A text, with TGI's details where they are requested."""

    generated_text: str
    details: dict[str, Any] | None = None


class HubAnswer(
    RootModel[
        list[list[LabelScore]]
        | list[EntityGroup]
        | list[Entity]
        | list[list[EntityGroup] | list[Entity]]
        | SpanAnswer
        | list[SpanAnswer]
        | list[list[SpanAnswer]]
        | list[Filled]
        | list[list[Filled] | list[list[Filled]]]
        | list[list[float]]
        | list[float]
        | list[GeneratedText]
    ]
):
    """By the task's kind: labels of each text, entities, answers, fills, vectors, cosines, or a generated text."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                [[{"label": "spam", "score": 0.9}, {"label": "ham", "score": 0.1}]],
                [{"entity_group": "PER", "score": 0.99, "word": "Ada", "start": 0, "end": 3}],
                {"answer": "Ada", "score": 0.9, "start": 0, "end": 3},
                [[0.6, 0.0, 0.8]],
                [{"generated_text": "a text"}],
            ]
        }
    )
