"""The config of a LoRA."""

from __future__ import annotations

from typing import Final, Literal

from manyhats.methods.component import MethodConfig
from manyhats.methods.lora.vera import SharedMatrices

NAME: Final = "lora"


class LoraConfig(MethodConfig):
    """`scales`: s for every site. `dora`: whose definition of DoRA the sites with a `magnitude` follow. `vera`: how to
    generate A and B where the tensors are VeRA's."""

    scales: dict[str, float]
    dora: Literal["peft", "adapterhub"] | None = None
    vera: SharedMatrices | None = None
