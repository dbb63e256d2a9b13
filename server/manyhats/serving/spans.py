"""Extractive question answering: the best spans of the context (Devlin et al. 2019, section 4.2)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from manyhats.backbone import Encoded, Text
from manyhats.serving.parameters import SpanParameters
from manyhats.serving.scores import softmax

_CONTEXT = 1  # the question is the text, the context its pair


def span_answer(
    logits: NDArray[np.float32], parameters: SpanParameters, text: Text, encoded: Encoded
) -> dict[str, Any]:
    """The best answer, or with `top_k` the best few under `answers`. logits: (tokens, 2), start and end.

    A span's score is p(start) p(end), each a softmax over the context's tokens.
    """
    context = [i for i, sequence in enumerate(encoded.sequence_ids) if sequence == _CONTEXT]
    source = text.pair or ""
    found: list[dict[str, Any]] = []
    if context:
        start, end = (softmax(logits[context, column]) for column in (0, 1))
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
        answer["logits"] = logits.tolist()
    return answer
