"""Extractive question answering: the best spans of the context (Devlin et al. 2019, section 4.2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from manyhats.backbone import Text
from manyhats.core.kinds.base import Answer, HeadSpec, Kind, LibraryNames, Output, Parameters, Rendered
from manyhats.core.kinds.baselines import Baseline
from manyhats.core.kinds.examples import IGNORED, AnswerSpan, Columns, EncodedExample, Example, NonEmptyText, TextRow
from manyhats.core.kinds.fields import TopK
from manyhats.core.kinds.metrics import Metric, Score, share
from manyhats.core.kinds.scores import softmax
from manyhats.core.kinds.training import KindTraining, TargetScale
from manyhats.errors import InvalidRequest

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

_CONTEXT = 1  # the question is the text, the context its pair


class SpanParameters(Parameters):
    """`top_k`: the number of answers, the best first. `max_answer_tokens`: longer ones are not considered."""

    top_k: TopK | None = None
    max_answer_tokens: Annotated[int, Field(ge=1, le=1000)] = 30
    logits: bool = False


class Span(Kind[SpanParameters]):
    """The span of a context that answers a question."""

    name = "span"
    head = HeadSpec(reads=("tokens",), outputs=2, outputs_named=", start and end")
    pair = ("question", "context")
    fields = (("answer", "text"), ("start", "integer"), ("end", "integer"), ("score", "number"))
    parameters = SpanParameters
    libraries = LibraryNames(
        peft="QUESTION_ANS",
        model_classes=("ForQuestionAnswering",),
        auto_class="AutoModelForQuestionAnswering",
        head_layer="qa_outputs",
        adapterhub=("question_answering",),
        pipeline="question-answering",
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
        """The scores of all starts and ends are computed."""
        return len(output) ** 2


class SpanRow(TextRow):
    """`target`: the answer's text, or SQuAD's `{"text": [...], "answer_start": [...]}`, of which the first is used."""

    pair: NonEmptyText
    target: NonEmptyText
    start: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _first(cls, data: Any) -> Any:
        answers = data.get("target")
        if isinstance(answers, Mapping) and answers.get("text") and answers.get("answer_start") is not None:
            return data | {"target": answers["text"][0], "start": answers["answer_start"][0]}
        return data

    @model_validator(mode="after")
    def _answer_is_in_context(self) -> SpanRow:
        if self.start is None and self.pair.count(self.target) != 1:
            count = self.pair.count(self.target)
            raise ValueError(
                f"the answer {self.target[:60]!r} stands {count} times in its context; say where it starts"
                if count
                else f"the answer {self.target[:60]!r} does not stand in its context"
            )
        if self.start is not None and self.pair[max(self.start, 0) :][: len(self.target)] != self.target:
            raise ValueError(f"the answer {self.target[:60]!r} does not stand at {self.start} of its context")
        return self

    def example(self) -> Example:
        start = self.pair.index(self.target) if self.start is None else self.start
        return Example(self.text, self.pair, (), AnswerSpan(start, start + len(self.target)))


class SpanTraining(KindTraining):
    """An answer within a context: its first and last token (Devlin et al. 2019, section 4.2)."""

    name = "span"
    served_as = Span()
    row = SpanRow
    metric = Metric("exact match", "exact_match", proportion=True, more_is_better=True)

    def columns(self, columns: Columns) -> dict[str, str]:
        return {"text": columns.text, "pair": columns.text_pair or "context", "target": columns.label}

    def optional_columns(self, columns: Columns) -> dict[str, str]:
        return {"start": columns.start}

    def encode(
        self,
        examples: Sequence[Example],
        labels: Sequence[str],
        backbone: Backbone,
        max_tokens: int,
        template: str | None = None,
    ) -> list[EncodedExample]:
        """An answer beyond the limit is ignored in training, and counts as wrong in evaluation."""
        made = []
        encoded = backbone.tokenizer.encode([Text(e.text, e.pair) for e in examples], max_tokens)
        for e, example in zip(encoded, examples, strict=True):
            assert isinstance(example.target, AnswerSpan)
            answer = example.target
            tokens = [i for i, sequence in enumerate(e.sequence_ids) if sequence == 1]
            inside = [i for i in tokens if e.offsets[i][1] > answer.start and e.offsets[i][0] < answer.end]
            whole = bool(inside) and e.offsets[inside[-1]][1] >= answer.end
            target = [inside[0], inside[-1]] if whole else [IGNORED, IGNORED]
            context = slice(tokens[0], tokens[-1] + 1) if tokens else slice(0)
            made.append(EncodedExample(e.ids, e.type_ids, target, e.full_length > len(e.ids), context=context))
        if all(example.target == [IGNORED, IGNORED] for example in made):
            raise InvalidRequest(
                f"no answer lies within the first {max_tokens} tokens of question and context", param="max_tokens"
            )
        return made

    def loss(
        self,
        outputs: Sequence[Tensor],
        batch: Sequence[EncodedExample],
        weights: Tensor | None = None,
        scale: TargetScale | None = None,
    ) -> Tensor:
        losses = []
        for output, example in zip(outputs, batch, strict=True):
            assert isinstance(example.target, list)
            if example.target[0] == IGNORED:
                losses.append(output.float().sum() * 0)
                continue
            bounds = torch.tensor(example.target, device=output.device) - example.context.start
            losses.append(F.cross_entropy(output[example.context].float().T, bounds))
        return torch.stack(losses).mean()

    def score(self, outputs: Sequence[Tensor], examples: Sequence[EncodedExample]) -> Score:
        pairs = zip(outputs, examples, strict=True)
        matches = sum(best_span(output, example.context) == example.target for output, example in pairs)
        return Score(self.metric, matches / len(examples), len(examples))

    def judged(self, answers: Sequence[Answer], examples: Sequence[Example]) -> Score:
        right = []
        for answer, example in zip(answers, examples, strict=True):
            assert isinstance(example.target, AnswerSpan)
            right.append(answer["answer"] == (example.pair or "")[example.target.start : example.target.end])
        return share(self.metric, right)

    def constant_baseline(self, train: Sequence[EncodedExample], test: Sequence[EncodedExample]) -> Baseline:
        """The score of the context's first tokens, as many as most answers have."""
        lengths = Counter(e.target[1] - e.target[0] for e in train if e.target[0] != IGNORED)  # type: ignore[index]
        more = lengths.most_common(1)[0][0]
        right = sum(e.target == [e.context.start, e.context.start + more] for e in test)
        return Baseline("always the context's beginning", Score(self.metric, right / len(test), len(test)))


def best_span(logits: Tensor, context: slice) -> list[int]:
    """First and last token of the likeliest answer. logits: (tokens, 2), start and end; `context`: the tokens that may
    hold it."""
    start, end = torch.log_softmax(logits[context].float(), dim=0).unbind(-1)
    before = torch.ones(len(start), len(start), dtype=torch.bool, device=logits.device).tril(-1)
    sums = (start[:, None] + end[None, :]).masked_fill(before, float("-inf"))
    first, last = divmod(int(sums.argmax()), len(start)) if len(start) else (0, 0)
    return [context.start + first, context.start + last]
