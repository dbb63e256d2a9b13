"""What each of Hugging Face's pipelines is asked, and how it answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from fastapi import Request
from pydantic import BaseModel

from manyhats.api.huggingface.bodies import (
    ASKED,
    COMPARED,
    TEXTS,
    Answering,
    Asked,
    Classifying,
    Embedding,
    Filling,
    HubBody,
    Tagging,
    checked,
)
from manyhats.api.labels import SCORED, label_scores, scoring_parameters
from manyhats.api.lorax_pooled import entities_of
from manyhats.api.pooled import LABELS, TOKENS, VECTORS, predict, vectors
from manyhats.api.relevance import Compared, cosines, kind_of
from manyhats.api.state import runtime_of
from manyhats.backbone import Text
from manyhats.errors import InvalidRequest

# What makes an answer, and roughly how many values it has.
Answered = tuple[Callable[[], Any], int]
Pipeline = Callable[[Request, str | None, HubBody], Awaitable[Answered]]

_FUNCTIONS: Mapping[str | None, dict[str, Any]] = {
    None: {},
    "none": {"logits": True},
    "softmax": {"multi_label": False},
    "sigmoid": {"multi_label": True},
}


async def text_classification(request: Request, task: str | None, body: HubBody) -> Answered:
    """For each text its labels with their scores, the best first."""
    given = body.read(Classifying)
    if given.function_to_apply not in _FUNCTIONS:
        raise InvalidRequest(
            "'function_to_apply' is softmax, sigmoid or none, by default what the task has", param="function_to_apply"
        )
    kind = kind_of(runtime_of(request), task).name
    raw = given.function_to_apply == "none"
    parameters = scoring_parameters(kind, raw=raw) | _truncation(given)
    if kind in LABELS:
        parameters |= _FUNCTIONS[given.function_to_apply]
    texts, _ = _texts(body)
    result = await predict(request, task, texts, parameters, kinds=SCORED, field="inputs")
    return lambda: [label_scores(output, raw=raw)[: given.top_k] for output in result.outputs], result.size


async def token_classification(request: Request, task: str | None, body: HubBody) -> Answered:
    """The entities of a text, or of each text of a list."""
    given = body.read(Tagging)
    strategy = given.aggregation_strategy
    parameters = _truncation(given) | ({} if strategy is None else {"aggregation": strategy})
    texts, many = _texts(body)
    result = await predict(request, task, texts, parameters, kinds=TOKENS, field="inputs")

    def shown(output: dict[str, Any]) -> list[dict[str, Any]]:
        return entities_of(output) if strategy == "none" else list(output["entities"])

    return lambda: _one_or_many([shown(output) for output in result.outputs], many), result.size


async def question_answering(request: Request, task: str | None, body: HubBody) -> Answered:
    """The answer to a question, or the best few of them; a list for a list of questions."""
    given = body.read(Answering)
    asked: Asked | list[Asked] = checked(ASKED, body.inputs, "inputs")
    many = isinstance(asked, list)
    texts = [Text(one.question, one.context) for one in (asked if isinstance(asked, list) else [asked])]
    parameters = _truncation(given)
    several = given.top_k is not None and given.top_k > 1
    if several:
        parameters["top_k"] = given.top_k
    if given.max_answer_len is not None:
        parameters["max_answer_tokens"] = given.max_answer_len
    result = await predict(request, task, texts, parameters, kinds=("span",), field="inputs")

    def shown(output: dict[str, Any]) -> Any:
        return output["answers"] if several else {name: output[name] for name in ("answer", "score", "start", "end")}

    return lambda: _one_or_many([shown(output) for output in result.outputs], many), result.size


async def fill_mask(request: Request, task: str | None, body: HubBody) -> Answered:
    """The likeliest tokens for a mask, for each of several, and for each text of a list."""
    given = body.read(Filling)
    texts, many = _texts(body)
    parameters = _truncation(given) | ({} if given.top_k is None else {"top_k": given.top_k})
    result = await predict(request, task, texts, parameters, kinds=("fill",), field="inputs")

    def shown(text: str, output: dict[str, Any]) -> Any:
        masks = [
            [
                {
                    "score": fill["score"],
                    "token": fill["token"],
                    "token_str": fill["text"],
                    "sequence": text[: mask["start"]] + fill["text"] + text[mask["end"] :],
                }
                for fill in mask["fills"]
            ]
            for mask in output["masks"]
        ]
        return masks[0] if len(masks) == 1 else masks

    def answer() -> Any:
        found = [shown(text.text, output) for text, output in zip(texts, result.outputs, strict=True)]
        return _one_or_many(found, many)

    return answer, result.size


async def embedding(request: Request, task: str | None, body: HubBody) -> Answered:
    """A vector for each text; for a text and others, the cosine of its vector and theirs."""
    given = body.read(Embedding)
    parameters = _truncation(given)
    for name, value in (("normalize", given.normalize), ("prompt_name", given.prompt_name)):
        if value is not None:
            parameters[name] = value
    if given.encoding_format not in (None, "float"):
        raise InvalidRequest("'encoding_format' is float here; use POST /v1/embeddings", param="encoding_format")
    if body.compares:
        compared: Compared = checked(COMPARED, body.inputs, "inputs")
        source, others = [compared.source_sentence], compared.sentences
        scores = await cosines(request, task, source, others, parameters, field="inputs")
        return lambda: scores.values, scores.result.size
    texts, _ = _texts(body)
    result = await predict(request, task, texts, parameters, kinds=VECTORS, field="inputs")
    return lambda: vectors(result, given.dimensions, unit=given.normalize is not False), result.size


# By Hugging Face's name, which a kind has in `core.kinds`.
PIPELINES: Mapping[str, Pipeline] = {
    "text-classification": text_classification,
    "text-ranking": text_classification,
    "token-classification": token_classification,
    "question-answering": question_answering,
    "fill-mask": fill_mask,
    "sentence-similarity": embedding,
}
# Other names of the same.
SAME: Mapping[str, str] = {"feature-extraction": "sentence-similarity", "ner": "token-classification"}


def _texts(body: HubBody) -> tuple[list[Text], bool]:
    """The inputs, and whether they are a list. Raises InvalidRequest."""
    found = checked(TEXTS, body.inputs, "inputs")
    many = isinstance(found, list)
    texts = [
        Text(one) if isinstance(one, str) else Text(one.text, one.text_pair) for one in (found if many else [found])
    ]
    return texts, many


def _truncation(given: BaseModel) -> dict[str, Any]:
    truncate = getattr(given, "truncate", None)
    return {} if truncate is None else {"truncate": truncate}


def _one_or_many(found: Sequence[Any], many: bool) -> Any:
    return found if many else found[0]
