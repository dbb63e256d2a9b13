"""The unmodified model beside the one with sites: the reference that a packed pass is checked against."""

from __future__ import annotations

import copy

from transformers import PreTrainedModel


def reference_copy(model: PreTrainedModel) -> PreTrainedModel:
    """transformers' own modules once more, around the same weights, which are not copied.

    Taken before anything is put into the model: from then on each runs code of its own. Tables that are no weights
    (rotary frequencies) are copied, so that what happens to the model's shows.
    """
    return copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
