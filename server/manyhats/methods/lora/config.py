"""What a LoRA needs to know besides its tensors."""

from __future__ import annotations

from typing import Final, Literal

from manyhats.methods.component import MethodConfig
from manyhats.methods.lora.vera import SharedMatrices

NAME: Final = "lora"


class LoraConfig(MethodConfig):
    """`scales`: s for every site. `dora`: whose definition of DoRA the sites with a `magnitude` follow. `vera`: what A
    and B are made of where the leaves are VeRA's."""

    scales: dict[str, float]
    dora: Literal["peft", "adapterhub"] | None = None
    vera: SharedMatrices | None = None
