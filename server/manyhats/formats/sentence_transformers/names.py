"""The files of sentence-transformers' folders."""

MODULES = "modules.json"
MODULE_WEIGHTS = "model.safetensors"
MODULE_WEIGHT_FILES = (f"[0-9]*_*/{MODULE_WEIGHTS}",)
FILES = (
    MODULES, "config_sentence_transformers.json", "sentence_*_config.json", "[0-9]*_*/config.json",
    *MODULE_WEIGHT_FILES,
)  # fmt: skip
# The names of weights in pickles, each with the name as safetensors.
PICKLED: dict[str, str | None] = {"pytorch_model.bin": MODULE_WEIGHTS}
