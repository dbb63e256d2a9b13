"""PEFT's adapter folders: `adapter_config.json` and `adapter_model.safetensors` (PEFT 0.21).

Reading is driven by the tensors: every one must match a site. Only scales and flags are read from the config, and a
field that changes answers and is not supported is rejected, never ignored.
"""
