"""Defaults that work, by method.

Tried with a 6-layer encoder of 22.7 M weights, by validation accuracy on the sentiment of 1500 short texts: two
rates for masks, two for prefixes with the MLP and two without. Those of
LoRA and bottleneck were the first tried, and learned well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from manyhats.errors import InvalidRequest
from manyhats.methods import METHODS


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to train. Learning rates are the peak values of AdamW."""

    learning_rate: float  # of the method's weights
    head_learning_rate: float
    epochs: int = 5
    batch_tokens: int = 1024  # most tokens of one step
    patience: int = 2  # epochs without a better validation score until training stops
    seed: int = 0
    warm_up: float = 0.06  # share of the steps over which the learning rates rise
    clip: float = 1.0  # largest norm of all gradients together
    weight_decay: float = 0.01
    dropout: float = 0.1  # share of the head's input that is left out


_DEFAULTS: dict[str, Schedule] = {
    "lora": Schedule(learning_rate=1e-3, head_learning_rate=1e-3, batch_tokens=512),
    "bottleneck": Schedule(learning_rate=1e-3, head_learning_rate=1e-3, batch_tokens=512),
    # A prefix needs many steps, so they are small. At ten times this rate it learned nothing.
    "prefix": Schedule(learning_rate=5e-4, head_learning_rate=2e-3, batch_tokens=256),
    # A step costs much beside its tokens: every score is moved. Decay would pull all scores under the threshold.
    "mask": Schedule(learning_rate=1e-2, head_learning_rate=1e-3, weight_decay=0.0),
}

# A prefix that is trained without the MLP takes, and needs, a far higher rate.
_BARE_PREFIX = replace(_DEFAULTS["prefix"], learning_rate=3e-2, head_learning_rate=5e-3)


def schedule_for(method: str, options: Mapping[str, Any] | None = None) -> Schedule:
    """The defaults of a method with these options. Raises InvalidRequest for a method that cannot be trained here."""
    if method == "prefix" and str((options or {}).get("reparametrisation")) == "0":
        return _BARE_PREFIX
    try:
        return _DEFAULTS[method]
    except KeyError:
        trainable = ", ".join(sorted(name for name in METHODS if name in _DEFAULTS))
        raise InvalidRequest(f"no method '{method}' can be trained; these can: {trainable}", param="method") from None
