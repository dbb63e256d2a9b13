"""How a kind of task is trained: what a row of its data holds, the loss, the metric, and what the card says."""

from __future__ import annotations

from abc import ABC
from typing import ClassVar


class KindTraining(ABC):
    """One way to train a kind. Stateless.

    `name`: what the command line calls it; the kind's own, but for labels of another sort (`multilabel`).
    """

    name: ClassVar[str]
