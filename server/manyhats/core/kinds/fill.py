"""Predicts the mask tokens of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from manyhats.core.kinds.base import Answer, Kind, LibraryNames, Output, Parameters, Preparing, Rendered
from manyhats.core.kinds.fields import TopK
from manyhats.core.kinds.scores import softmax
from manyhats.core.sequence import PoolingParams
from manyhats.errors import AdapterMismatch, InvalidRequest

if TYPE_CHECKING:
    from manyhats.backbone import Backbone, Encoded, Tokenizer

MAX_MASKS = 16  # of one text: each has a row of logits over the whole vocabulary


class FillParameters(Parameters):
    """`top_k`: the number of tokens for each mask."""

    top_k: TopK = 5


class Fill(Kind[FillParameters]):
    """The likeliest tokens for each mask, by the backbone's masked language-model head."""

    name = "fill"
    lm_head = True
    fields = (("text", "text"), ("masks", "json"))
    parameters = FillParameters
    libraries = LibraryNames(model_classes=("ForMaskedLM",), auto_class="AutoModelForMaskedLM", pipeline="fill-mask")

    def possible_on(self, backbone: Backbone) -> bool:
        """On backbones with a masked language-model head."""
        return backbone.fills_masks

    def check_backbone(self, backbone: Backbone) -> None:
        """Raises AdapterMismatch where the backbone has no masked language-model head."""
        if not backbone.fills_masks:
            raise AdapterMismatch(
                f"the adapter is for filling masks, but the backbone {backbone.name} has no masked language-model head",
                param="kind",
            )

    def pooling_params(
        self, encoded: Sequence[Encoded], parameters: FillParameters, preparing: Preparing
    ) -> Sequence[PoolingParams]:
        """The language-model head's logits at the masks. Raises InvalidRequest for none, or too many."""
        tokenizer = preparing.backbone.tokenizer
        return [PoolingParams(mask_positions=_checked_masks(one, tokenizer, i)) for i, one in enumerate(encoded)]

    def render(self, output: Output, parameters: FillParameters, rendered: Rendered) -> Answer:
        """The likeliest tokens for each mask, independently, and the text with the best of them.

        output: (masks, vocabulary).
        """
        tokenizer, encoded = rendered.tokenizer, rendered.encoded
        ids = list(encoded.ids)
        masks = []
        for position, scores in zip(_masks(encoded, tokenizer), softmax(output), strict=True):
            best = np.argsort(-scores, kind="stable")[: parameters.top_k]
            ids[position] = int(best[0])
            start, end = encoded.offsets[position]
            fills = [
                {"text": tokenizer.token_to_string(int(t)), "token": int(t), "score": float(scores[t])} for t in best
            ]
            masks.append({"start": start, "end": end, "fills": fills})
        return {"text": tokenizer.decode(ids), "masks": masks}


def _masks(encoded: Encoded, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The positions of a text's mask tokens."""
    return tuple(i for i, token in enumerate(encoded.ids) if token == tokenizer.mask_id)


def _checked_masks(encoded: Encoded, tokenizer: Tokenizer, index: int) -> tuple[int, ...]:
    """The positions of a text's mask tokens. `index`: the text's place among the inputs.

    Raises InvalidRequest where there are none, or too many.
    """
    positions = _masks(encoded, tokenizer)
    if not positions:
        raise InvalidRequest(
            f"input {index} has no mask; write '{tokenizer.mask_token}' for each token to fill in",
            param=f"inputs.{index}",
        )
    if len(positions) > MAX_MASKS:
        raise InvalidRequest(
            f"input {index} has {len(positions)} masks; at most {MAX_MASKS} are filled", param=f"inputs.{index}"
        )
    return positions
