"""Prompt tuning: learned vectors before every sequence's own (Lester et al. 2021, 2; P-tuning, Liu et al. 2021).

PEFT puts them in place of word embeddings, so that they get positions and the embeddings' norm, and real tokens'
positions shift; AdapterHub puts them after the embedding block, and real tokens keep their positions.
"""

from manyhats.methods.prompt.config import PROMPT_SITE, PromptConfig
from manyhats.methods.prompt.method import Prompt

__all__ = ["PROMPT_SITE", "Prompt", "PromptConfig"]
