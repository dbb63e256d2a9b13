"""Which floating-point type the backbone runs in."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from manyhats.backbone.families import family_of
from manyhats.backbone.loading import DTYPES
from manyhats.backbone.original import reference_copy
from manyhats.backbone.transformers_internals import float32_patterns
from manyhats.errors import ConfigurationError

logger = logging.getLogger(__name__)

# bfloat16 is used where the mean-pooled states of some sequences have at least this cosine similarity.
_AGREEMENT = 0.999


def choose_dtype(wanted: str, model: PreTrainedModel, device: torch.device) -> torch.dtype:
    """`auto` is float32, except where the device computes in bfloat16 natively and the answers agree.

    Raises ConfigurationError for an unknown name.
    """
    if wanted != "auto":
        try:
            return DTYPES[wanted]
        except KeyError:
            names = ", ".join(["auto", *DTYPES])
            raise ConfigurationError(f"dtype '{wanted}' is not known; these are: {names}") from None
    if not native_bfloat16(device) or not family_of(model.config.model_type).packed:
        return torch.float32
    similarity = bfloat16_agreement(model, device)
    logger.info("bfloat16 against float32: cosine similarity %.5f", similarity)
    return torch.bfloat16 if similarity >= _AGREEMENT else torch.float32


def native_bfloat16(device: torch.device) -> bool:
    """Whether the device has bfloat16 arithmetic of its own (elsewhere it is slower than float32)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def use_tf32(device: torch.device, wanted: bool) -> None:
    """Whether products in float32 on a CUDA device may round their inputs to TF32's 10 bits: torch's own, and those of
    the programs in Triton, which follow torch's setting.

    Raises ConfigurationError where it is wanted and the device has none.
    """
    if wanted and device.type != "cuda":
        raise ConfigurationError(f"tf32 is set, which needs a CUDA device, and the backbone is on {device.type}")
    if wanted and torch.cuda.get_device_capability(device)[0] < 8:
        raise ConfigurationError(f"tf32 is set, which needs compute capability 8.0, and {device} has less")
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if wanted else "highest")


def rounds_products(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a product in `dtype` is rounded more than in float32, by its type or by TF32."""
    return dtype != torch.float32 or (device.type == "cuda" and torch.get_float32_matmul_precision() != "highest")


@torch.inference_mode()
def bfloat16_agreement(model: PreTrainedModel, device: torch.device) -> float:
    """The lowest cosine similarity between float32's and bfloat16's mean states over a few made-up sequences.

    The model goes to the device, in the types it is in, and stays there; beside it there is never more than one module
    in another type.
    """
    model.to(device)
    vocabulary = model.config.vocab_size
    generator = torch.Generator().manual_seed(0)
    low = min(1000, vocabulary // 2)
    sequences = [torch.randint(low, vocabulary, (1, n), generator=generator).to(device) for n in (8, 24, 48)]
    probe = reference_copy(model).eval()
    probe.set_attn_implementation("sdpa")

    def states(dtype: torch.dtype) -> Tensor:
        with _run_in(probe, dtype):
            return torch.stack([probe(input_ids=t).last_hidden_state[0].float().mean(0) for t in sequences])

    similarity = torch.nn.functional.cosine_similarity(states(torch.float32), states(torch.bfloat16))
    return float(similarity.min())


@contextmanager
def _run_in(model: PreTrainedModel, dtype: torch.dtype) -> Iterator[None]:
    """Within it every module of `model` has its own weights in `dtype` (as `cast` gives them) while it runs."""
    stored = model.state_dict().keys()
    hooks = []
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        own: dict[str, Tensor] = dict(module.named_parameters(recurse=False))
        own |= {name: table for name, table in module.named_buffers(recurse=False) if prefix + name in stored}
        own = {name: tensor for name, tensor in own.items() if tensor.is_floating_point()}
        kept = {name for name in own if stays_float32(model, prefix + name, dtype)}
        if not own:
            continue

        def enter(module: nn.Module, *_: Any, own: dict[str, Tensor] = own, kept: set[str] = kept) -> None:
            for name, tensor in own.items():
                value = tensor.to(torch.float32 if name in kept else dtype)
                setattr(module, name, nn.Parameter(value, False) if isinstance(tensor, nn.Parameter) else value)

        def leave(module: nn.Module, *_: Any, own: dict[str, Tensor] = own) -> None:
            for name, tensor in own.items():
                setattr(module, name, tensor)

        hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def cast(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Moves a model to a device and its weights to a type.

    Keeps in float32 what transformers does when it loads a model in `dtype`: buffers that are not in checkpoints (in
    bfloat16 a rotary frequency is off by up to 0.4 %, and so is the angle of the thousandth token), and weights that
    the model's class names.
    """
    stored = module.state_dict().keys()
    tables = [(name, table) for name, table in module.named_buffers() if name not in stored]
    weights = [
        (weight, weight.data) for name, weight in module.named_parameters() if stays_float32(module, name, dtype)
    ]
    module.to(device=device, dtype=dtype)
    for path, table in tables:
        owner, _, name = path.rpartition(".")
        module.get_submodule(owner).register_buffer(name, table.to(device), persistent=False)
    for weight, values in weights:
        weight.data = values.to(device, torch.float32)


def stays_float32(module: nn.Module, name: str, dtype: torch.dtype) -> bool:
    """Whether a model's class keeps a weight in float32 when the model is in `dtype`."""
    patterns = float32_patterns(module, dtype)
    return any(re.search(re.escape(pattern).replace(r"\*", ".*"), name) for pattern in patterns)
