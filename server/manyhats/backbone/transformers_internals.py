"""Undocumented parts of transformers that the backbone uses, which may change with any release.

Each entry says why no public one will do. `tests/backbone/test_internals.py` names the one that broke. The modules of
each architecture, which are not public either, are named only in `families` and `reformer`; every family has tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.utils import cached_file

# Passed to decoders as their mask, and not read. transformers passes a mask of four dimensions on unchanged; without
# one it looks for packed sequences (GPT-2: for pads) at the start of every pass, for which the host waits. No setting
# turns that off.
LAYOUT_AS_MASK = torch.zeros((1, 1, 1, 1))


def attention_implementation(config: PreTrainedConfig) -> str | None:
    """The name under which a model with this config looks up its attention.

    The public `set_attn_implementation` only logs that a model did not follow it, and nothing public returns the name.
    """
    name: str | None = config._attn_implementation
    return name


def float32_patterns(model: nn.Module, dtype: torch.dtype) -> set[str]:
    """Patterns of the weights that a model's class keeps in float32 when the model is in `dtype`.

    transformers' classes have two lists, one for float16 alone and one for both half types. It follows them where it
    loads a model in `dtype`, but a model that is already loaded has no public way to be cast so.
    """
    patterns: set[str] = set()
    if dtype in (torch.float16, torch.bfloat16):
        patterns |= set(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    if dtype == torch.float16:
        patterns |= set(getattr(model, "_keep_in_fp32_modules", None) or ())
    return patterns


def file_from_hub(source: str, name: str) -> Path | None:
    """A file of a model on the hub, from the cache where it is there; None where the model has no such file.

    The public way raises one OSError for a missing file, a missing connection and a missing permission alike, and only
    the first two mean that there is no file to read.
    """
    found = cached_file(
        source, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    return None if found is None else Path(found)


def reformer_layer_output(**fields: Any) -> Any:
    """What a layer of Reformer returns. The class is exported from its own module alone."""
    from transformers.models.reformer.modeling_reformer import ReformerOutput

    return ReformerOutput(**fields)


def reformer_encoder_output(**fields: Any) -> Any:
    """What Reformer's encoder returns. The class is exported from its own module alone."""
    from transformers.models.reformer.modeling_reformer import ReformerEncoderOutput

    return ReformerEncoderOutput(**fields)
