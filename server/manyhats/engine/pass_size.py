"""How many tokens one pass may have, where no setting says it."""

from __future__ import annotations

import torch

from manyhats.backbone import Backbone
from manyhats.backbone.device_memory import device_memory

# At most, on a CPU and elsewhere. A decoder's decodes wait for the whole pass, so its are shorter.
_MOST = {"encoder": (2048, 16384), "decoder": (512, 8192)}
_LEAST = 512  # where memory is short: fewer are slow, and a pass that does not fit says so
_SHARE = 0.5  # of what is left for activations; the rest is for attention, logits and what torch keeps


def default_batched_tokens(backbone: Backbone, reserved: int, free: int | None = None) -> int:
    """The most tokens of one pass: as many as are fast on the device, and fit into its memory; a power of two.

    `reserved`: bytes for the cache of keys and values and for adapters, of what is free beside the backbone. `free`:
    those; by default what the device says.
    """
    most = _most(backbone.device, decoder=backbone.has_language_model)
    if backbone.device.type == "cpu":
        return most
    if free is None:
        memory = device_memory(backbone.device)
        if memory is None:
            return most
        free = memory.free
    # Where adapters or the cache are allowed more than there is, a pass still gets an eighth.
    left = max(free - reserved, free // 8)
    fitting = int(_SHARE * left) // _activation_bytes(backbone)
    return max(min(most, 1 << max(fitting, 1).bit_length() - 1), _LEAST)


def described(device: torch.device) -> str:
    """What is chosen on a device, for a backbone that is not known yet."""
    encoder, decoder = (_most(device, decoder=decoder) for decoder in (False, True))
    text = f"{encoder}, of a decoder {decoder}"
    return text if device.type == "cpu" else f"at most {text}; fewer where they would not fit into its memory"


def _most(device: torch.device, *, decoder: bool) -> int:
    on_cpu, elsewhere = _MOST["decoder" if decoder else "encoder"]
    return on_cpu if device.type == "cpu" else elsewhere


def _activation_bytes(backbone: Backbone) -> int:
    """For one token at the widest point of a block: its states, query, key and value, and three of the widest layer."""
    layers = [site for name, site in backbone.linear.items() if not backbone.in_vocabulary_head(name)]
    widest = max((max(site.shape) for site in layers), default=backbone.hidden)
    return (8 * backbone.hidden + 3 * widest) * backbone.dtype.itemsize
