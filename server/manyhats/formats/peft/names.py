"""PEFT's file, and how its keys begin."""

WEIGHTS = "adapter_model.safetensors"
WRAPPER = "base_model.model."
PROMPT_WRAPPER = "base_model."  # prompt learning wraps the model otherwise
