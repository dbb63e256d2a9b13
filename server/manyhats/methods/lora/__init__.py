"""LoRA, rsLoRA, DoRA, AdaLoRA and VeRA: low-rank updates of linear layers."""

from manyhats.methods.lora.average import weighted_loras
from manyhats.methods.lora.config import LoraConfig
from manyhats.methods.lora.method import Lora

__all__ = ["Lora", "LoraConfig", "weighted_loras"]
