"""PEFT's files, and how its keys begin."""

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
INDEX = "adapter_model.safetensors.index.json"
SHARDS = "adapter_model-*-of-*.safetensors"
WEIGHT_FILES = (WEIGHTS, SHARDS)
FILES = (CONFIG, INDEX, *WEIGHT_FILES)  # patterns of all files that are read
# The names of weights in pickles, each with the name as safetensors; None: not supported in any form.
PICKLED: dict[str, str | None] = {
    "adapter_model.bin": WEIGHTS,
    "non_lora_trainables.bin": None,
    "trainable_params.bin": None,
    "value_head.bin": None,
}
