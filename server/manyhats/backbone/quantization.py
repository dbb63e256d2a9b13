"""The blocks' linear weights in 8 bits, by torchao: a byte for each weight, and scales.

Weights only: inputs, embeddings, norms, poolers and heads stay in the backbone's type. A layer's product is that of its
dequantised weight, up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Conv1D, PreTrainedModel

from manyhats.backbone.precision import stays_float32
from manyhats.backbone.quantized_weight import is_quantized
from manyhats.errors import ConfigurationError
from manyhats.messages import first_line

NONE = "none"
_DEVICES = ("cpu", "cuda")
_OVERFLOWS = ("int8", torch.float16)  # products with whole numbers up to 127, before they are scaled


def check_quantization(name: str, device: torch.device, dtype: torch.dtype | None = None) -> None:
    """Raises ConfigurationError where weights cannot be quantised so: `name` is `int8` or `fp8`."""
    if name == NONE:
        return
    if device.type not in _DEVICES:
        raise ConfigurationError(
            f"quantization is {name}, which works on {' and '.join(_DEVICES)}, and the backbone is on {device.type}"
        )
    if (name, dtype) == _OVERFLOWS:
        raise ConfigurationError(
            "quantization is int8, whose products overflow in float16: take bfloat16 or float32, or quantization fp8"
        )
    _config(name)


@contextmanager
def quantized_linears(
    models: list[PreTrainedModel], blocks: str, name: str, device: torch.device, dtype: torch.dtype
) -> Iterator[None]:
    """Quantises the linear layers of `models[0]` below the path `blocks`, one after the other, on the device.

    The other models share its weights, and get the same new ones. Within the context the layers have no weights, so
    that models can be moved and cast: the device never holds the weights in full beside those in 8 bits, and the host
    gives each back when it is quantised. Raises ConfigurationError for layers that torchao does not quantise.
    """
    if name == NONE:
        yield
        return
    config = _config(name)
    holders: dict[int, list[Any]] = {}
    for model in models:
        for module in model.modules():
            if isinstance(module, nn.Linear):
                holders.setdefault(id(module.weight), []).append(module)
    quantized: list[tuple[list[Any], nn.Parameter]] = []
    for path, module in models[0].named_modules():
        if isinstance(module, Conv1D):
            raise ConfigurationError(
                f"quantization is {name}, which is for torch's linear layers, and those of "
                f"{models[0].config.model_type} models are of another class, Conv1D"
            )
        if not path.startswith(blocks) or not isinstance(module, nn.Linear) or not module.weight.numel():
            continue
        if stays_float32(models[0], f"{path}.weight", dtype):
            continue
        own = holders[id(module.weight)]
        weight = _quantized(module.weight.detach().to(device, dtype), config)
        for holder in own:
            holder.weight = nn.Parameter(torch.empty(0), requires_grad=False)
        quantized.append((own, weight))
    yield
    for own, weight in quantized:
        for holder in own:
            holder.weight = weight


def _quantized(weight: Tensor, config: Any) -> nn.Parameter:
    from torchao.quantization import quantize_

    with torch.inference_mode(False):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        layer.weight = nn.Parameter(weight, requires_grad=False)
        quantize_(nn.Sequential(layer), config)
    if not is_quantized(layer.weight):
        raise ConfigurationError(f"torchao left a weight of shape {list(weight.shape)} as it is")
    return layer.weight


def _config(name: str) -> Any:
    """torchao's config."""
    try:
        from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig
    except ImportError as error:
        raise ConfigurationError(
            f"quantization is {name}, which needs torchao: pip install 'manyhats[quantized]' ({first_line(error)})"
        ) from None
    # Its settings for torch's compiler are for the whole process, and nothing is compiled here.
    if name == "int8":
        return Int8WeightOnlyConfig(version=2, set_inductor_config=False)
    if name == "fp8":
        return Float8WeightOnlyConfig(set_inductor_config=False)
    raise ConfigurationError(f"quantization '{name}' is not known; these are: {NONE}, int8, fp8")
