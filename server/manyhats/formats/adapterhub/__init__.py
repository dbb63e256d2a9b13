"""AdapterHub's adapter folders, as the library `adapters` writes them with `use_safetensors=True` (adapters 1.3).

`adapter_config.json` + `adapter.safetensors`, for a head `head_config.json` + `model_head.safetensors`, and for
several adapters together a folder for each, with `adapter_setup.json` or a fusion's own folder beside them.
"""
