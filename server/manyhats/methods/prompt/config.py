"""The config of a soft prompt."""

from __future__ import annotations

from typing import Final

from manyhats.methods.component import MethodConfig

NAME: Final = "prompt"
PROMPT_SITE = "embeddings"


class PromptConfig(MethodConfig):
    """`after_embeddings`: whether the vectors are inserted after the embedding block (AdapterHub), or as word
    embeddings (PEFT)."""

    after_embeddings: bool = False
