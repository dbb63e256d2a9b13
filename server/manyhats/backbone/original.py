"""A copy of the unmodified model: the reference that packed passes are checked against."""

from __future__ import annotations

import copy

from transformers import PreTrainedModel


def reference_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A second instance of transformers' modules with the same weights, which are not copied.

    Made before sites are put into the model. Buffers that are not weights (rotary frequencies) are copied, so that a
    change of the model's shows.
    """
    return copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
