"""The file names of our own formats. Does not import torch, see `formats.base`."""

FILE = "manyhats.json"
WEIGHTS = "weights.safetensors"
