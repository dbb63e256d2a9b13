"""What a soft prompt is besides its tensors."""

from __future__ import annotations

from typing import Final

from manyhats.methods.component import MethodConfig

NAME: Final = "prompt"
PROMPT_SITE = "embeddings"


class PromptConfig(MethodConfig):
    """`after_embeddings`: the vectors stand behind the embedding block (AdapterHub), not in the table's place."""

    after_embeddings: bool = False
