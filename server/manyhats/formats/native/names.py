"""The files of our own folders."""

FILE = "manyhats.json"
WEIGHTS = "weights.safetensors"
FILES = (FILE, WEIGHTS)  # all that is read here
