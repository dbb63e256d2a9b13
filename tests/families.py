"""The families of the tiny backbones by name, and those that attach as another does.

A family that puts its blocks' sites where another puts them, by the same function and along the same branches of it, is
an alias of that one. Every method is tried on one of each; on an alias there is a test that shows what is its own
(`tests/backbone/test_aliases.py`), and the whole product in the slow tests.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

ENCODERS = ("bert", "roberta", "xlm-roberta", "electra", "electra-narrow", "distilbert")
SHARED_OR_LOCAL = ("albert", "modernbert")
DECODERS = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "opt", "opt-after", "gpt_neox", "gpt_neox-sequential")
PADDED = ("mpnet", "reformer")
ALL = (*ENCODERS, *SHARED_OR_LOCAL, *DECODERS, *PADDED)

ALIASES = {
    "roberta": "bert",
    "xlm-roberta": "bert",
    "electra": "bert",
    "electra-narrow": "bert",
    "mistral": "llama",
    "qwen2": "llama",
    "qwen3": "llama",
}


def one_of_each(families: Iterable[str] = ALL) -> list[Any]:
    """All of them as parameters of a test; aliases come with the slow tests alone."""
    import pytest  # here, as what makes references needs the names alone

    return [pytest.param(f, marks=pytest.mark.slow) if f in ALIASES else pytest.param(f) for f in families]
