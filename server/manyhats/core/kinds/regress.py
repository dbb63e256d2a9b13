"""A value for a whole text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manyhats.core.kinds.base import Answer, HeadSpec, Kind, LibraryNames, Output, Parameters, Rendered

if TYPE_CHECKING:
    from manyhats.methods.heads import Head


class RegressParameters(Parameters):
    """Nothing further."""


class Regress(Kind[RegressParameters]):
    """The head's one output as it is."""

    name = "regress"
    head = HeadSpec(reads=("first", "last", "pooler"), outputs=1)
    parameters = RegressParameters
    libraries = LibraryNames(
        peft="SEQ_CLS",
        auto_class="AutoModelForSequenceClassification",
        problem_types=("regression",),
        adapterhub=("classification",),
        pipeline="text-classification",
    )

    def check_head(self, head: Head) -> None:
        """Files with more outputs may be in stores; their value is the first."""

    def render(self, output: Output, parameters: RegressParameters, rendered: Rendered) -> Answer:
        """output: (1,)."""
        return {"value": float(output[0])}
