"""Extractive question answering: the best spans of the context (Devlin et al. 2019, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from manyhats.core.kinds.base import Answer, HeadSpec, Kind, LibraryNames, Output, Parameters, Preparing, Rendered
from manyhats.core.kinds.fields import TopK
from manyhats.core.kinds.scores import softmax
from manyhats.errors import InvalidRequest

if TYPE_CHECKING:
    from manyhats.backbone import Text

_CONTEXT = 1  # the question is the text, the context its pair


class SpanParameters(Parameters):
    """`top_k`: that many answers, the best first. `max_answer_tokens`: longer ones are not considered."""

    top_k: TopK | None = None
    max_answer_tokens: Annotated[int, Field(ge=1, le=1000)] = 30
    logits: bool = False


class Span(Kind[SpanParameters]):
    """Where in the context the answer to a question stands."""

    name = "span"
    head = HeadSpec(reads=("tokens",), outputs=2, outputs_named=", start and end")
    parameters = SpanParameters
    libraries = LibraryNames(
        peft="QUESTION_ANS",
        model_classes=("ForQuestionAnswering",),
        auto_class="AutoModelForQuestionAnswering",
        head_layer="qa_outputs",
        adapterhub=("question_answering",),
        pipeline="question-answering",
    )

    def check_texts(self, texts: Sequence[Text], parameters: SpanParameters, preparing: Preparing) -> None:
        """Raises InvalidRequest for a question without a context."""
        if any(text.pair is None for text in texts):
            raise InvalidRequest(
                "a task of kind 'span' needs the question in 'text' and the context in 'text_pair'", param="inputs"
            )

    def render(self, output: Output, parameters: SpanParameters, rendered: Rendered) -> Answer:
        """The best answer, or with `top_k` the best few under `answers`. output: (tokens, 2), start and end.

        A span's score is p(start) p(end), each a softmax over the context's tokens.
        """
        encoded, source = rendered.encoded, rendered.text.pair or ""
        context = [i for i, sequence in enumerate(encoded.sequence_ids) if sequence == _CONTEXT]
        found: list[Answer] = []
        if context:
            start, end = (softmax(output[context, column]) for column in (0, 1))
            scores = np.triu(np.outer(start, end))
            scores = np.tril(scores, parameters.max_answer_tokens - 1)
            count = min(parameters.top_k or 1, len(context))
            for flat in np.argsort(-scores, axis=None, kind="stable")[:count]:
                first, last = np.unravel_index(flat, scores.shape)
                if scores[first, last] <= 0:
                    break
                begin, stop = encoded.offsets[context[first]][0], encoded.offsets[context[last]][1]
                found.append(
                    {"answer": source[begin:stop], "start": begin, "end": stop, "score": float(scores[first, last])}
                )
        best = found[0] if found else {"answer": "", "start": 0, "end": 0, "score": 0.0}
        answer = dict(best)
        if parameters.top_k is not None:
            answer["answers"] = found
        if parameters.logits:
            answer["logits"] = output.tolist()
        return answer

    def rendering_cost(self, output: Output, parameters: SpanParameters) -> int:
        """Of a span's logits a table is made of every start and end."""
        return len(output) ** 2
