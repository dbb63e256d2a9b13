"""The files of the project's own folders, for what must not load torch."""

FILE = "manyhats.json"
WEIGHTS = "weights.safetensors"
