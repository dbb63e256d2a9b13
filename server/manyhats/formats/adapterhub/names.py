"""The files of AdapterHub's folders."""

from manyhats.methods.libraries.adapterhub_files import CONFIG as CONFIG
from manyhats.methods.libraries.adapterhub_files import FUSION_CONFIG as FUSION_CONFIG

WEIGHTS = "adapter.safetensors"
HEAD_CONFIG = "head_config.json"
HEAD_WEIGHTS = "model_head.safetensors"
FUSION_WEIGHTS = "model_adapter_fusion.safetensors"
SETUP = "adapter_setup.json"

WEIGHT_FILES = (WEIGHTS, HEAD_WEIGHTS, FUSION_WEIGHTS)
FILES = (CONFIG, HEAD_CONFIG, FUSION_CONFIG, SETUP, *WEIGHT_FILES)  # all files that are read
# The names of weights in pickles, each with the name as safetensors.
PICKLED: dict[str, str | None] = {
    "pytorch_adapter.bin": WEIGHTS,
    "pytorch_model_head.bin": HEAD_WEIGHTS,
    "pytorch_model_adapter_fusion.bin": FUSION_WEIGHTS,
    "pytorch_model_embeddings.bin": "model_embeddings.safetensors",
}
