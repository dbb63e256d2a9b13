"""What stands behind the mask tokens of a text."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from manyhats.backbone import Encoded, Tokenizer
from manyhats.errors import InvalidRequest
from manyhats.serving.parameters import FillParameters
from manyhats.serving.scores import softmax

MOST_MASKS = 16  # of one text: each mask gives a row of logits over the whole vocabulary


def mask_places(tokenizer: Tokenizer, encoded: Encoded, index: int) -> tuple[int, ...]:
    """Where a text's mask tokens stand. `index`: the text's place among the inputs.

    Raises InvalidRequest where there are none, or too many.
    """
    places = tuple(i for i, token in enumerate(encoded.ids) if token == tokenizer.mask_id)
    if not places:
        raise InvalidRequest(
            f"input {index} has no mask; write '{tokenizer.mask_token}' for each token to fill in",
            param=f"inputs.{index}",
        )
    if len(places) > MOST_MASKS:
        raise InvalidRequest(
            f"input {index} has {len(places)} masks; at most {MOST_MASKS} are filled", param=f"inputs.{index}"
        )
    return places


def fill_answer(
    logits: NDArray[np.float32], parameters: FillParameters, tokenizer: Tokenizer, encoded: Encoded
) -> dict[str, Any]:
    """The likeliest tokens for each mask, each by itself, and the text with the best of them.

    logits: (masks, vocabulary).
    """
    places = [i for i, token in enumerate(encoded.ids) if token == tokenizer.mask_id]
    ids = list(encoded.ids)
    masks = []
    for place, scores in zip(places, softmax(logits), strict=True):
        best = np.argsort(-scores, kind="stable")[: parameters.top_k]
        ids[place] = int(best[0])
        start, end = encoded.offsets[place]
        fills = [{"text": tokenizer.token_to_string(int(t)), "token": int(t), "score": float(scores[t])} for t in best]
        masks.append({"start": start, "end": end, "fills": fills})
    return {"text": tokenizer.decode(ids), "masks": masks}
