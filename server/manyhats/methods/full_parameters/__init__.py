"""Full parameters in place of the backbone's: biases (BitFit, Ben Zaken et al. 2022), norms (LN-tuning), and any
module that was trained with an adapter (PEFT's `modules_to_save`, `bias`)."""

from manyhats.methods.full_parameters.config import ParametersConfig
from manyhats.methods.full_parameters.method import Parameters

__all__ = ["Parameters", "ParametersConfig"]
