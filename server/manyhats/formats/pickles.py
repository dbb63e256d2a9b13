"""Detects pickles by name and by their first bytes. The server never opens one."""

from __future__ import annotations

from pathlib import Path

from manyhats.messages import pickle_refused

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
FIRST_BYTES = 9  # enough to tell a pickle from safetensors


def looks_like_pickle(path: Path) -> bool:
    """Whether the content is a pickle or torch's zip of pickles, whatever the file is called."""
    with path.open("rb") as file:
        return starts_like_pickle(file.read(FIRST_BYTES))


def starts_like_pickle(start: bytes) -> bool:
    """The same by a file's first bytes, of which there are `FIRST_BYTES` or as many as the file has."""
    # safetensors begins with the length of its header, whose bytes may look like a pickle, and then a brace
    return (start[:1] == b"\x80" or start[:4] == b"PK\x03\x04") and start[8:] != b"{"


def pickle_message(name: str) -> str:
    """Why a pickle file of an adapter is not read."""
    return pickle_refused(name, "turn it into safetensors on your own machine with `manyhats convert PATH OUT`")
