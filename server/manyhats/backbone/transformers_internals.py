"""What the backbone uses of transformers that it does not document, and so may change with any release.

Each entry says why no public way does. `tests/backbone/test_internals.py` names the one that broke. The modules of each
architecture, which are no more public, are named in `families` and `reformer` alone; every family's tests watch them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.utils import cached_file

# Handed to decoders as their mask: nobody reads it. transformers hands a mask of four dimensions on as it is; without
# one it looks for packed sequences at the start of every pass, for whose number the host waits, and GPT-2 for pads.
# There is no setting that leaves the search out.
LAYOUT_AS_MASK = torch.zeros((1, 1, 1, 1))


def attention_implementation(config: PreTrainedConfig) -> str | None:
    """The name by which a model with this config fetches its attention.

    The public `set_attn_implementation` only logs that a model did not follow it, and nothing public tells the name.
    """
    name: str | None = config._attn_implementation
    return name


def float32_patterns(model: nn.Module, dtype: torch.dtype) -> set[str]:
    """Patterns of the weights that a model's class wants in float32 though the model is in `dtype`.

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
