"""PEFT's adapter folders: `adapter_config.json` and `adapter_model.safetensors` (PEFT 0.21).

Reading is driven by the tensors: every one must find its site. From the config come only scales and flags, and a
field that changes the answer and is not supported is refused, never ignored.
"""
