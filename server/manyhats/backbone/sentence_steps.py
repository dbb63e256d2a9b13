"""sentence-transformers' modules after the pooling."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from manyhats.backbone.sentence import ACTIVATIONS, Dense, Norm, Projection, Step, UnitLength
from manyhats.backbone.sentence_source import MODULES, WEIGHTS, Source, reject_unknown, short_repr
from manyhats.errors import AdapterMismatch, InvalidRequest, UnsupportedFormat
from manyhats.messages import pickle_refused


def step_of(source: Source, name: str, folder: str) -> list[Step]:
    """The steps of a module after the pooling; none for a dropout."""
    prefix = f"{folder}/" if folder else ""
    config = source.object(f"{prefix}config.json", needed=name in ("Dense", "LayerNorm")) if folder else {}
    for key in ("module_input_name", "module_output_name"):
        stated = config.pop(key, None)
        if stated not in (None, "sentence_embedding"):
            raise AdapterMismatch(
                f"{key} of {prefix}config.json is {short_repr(stated)}; 'sentence_embedding' is supported", param=key
            )
    match name:
        case "Normalize":
            reject_unknown(config, set(), f"{prefix}config.json")
            return [UnitLength()]
        case "Dropout":
            return []
        case "Dense" if folder:
            return [_dense(source, prefix, config)]
        case "LayerNorm" if folder:
            dimension = config.pop("dimension", None)
            reject_unknown(config, set(), f"{prefix}config.json")
            leaves = _weights(source, prefix, {"norm.weight": (dimension,), "norm.bias": (dimension,)})
            return [Norm(leaves["norm.weight"], leaves["norm.bias"])]
        case _:
            raise AdapterMismatch(
                f"the module {name} behind the pooling in {MODULES} is not supported; Dense, LayerNorm, Normalize and "
                "Dropout are",
                param=MODULES,
            )


def _dense(source: Source, prefix: str, config: dict[str, Any]) -> Dense:
    width, out = config.pop("in_features", None), config.pop("out_features", None)
    bias, residual = config.pop("bias", True), config.pop("use_residual", False)
    path = config.pop("activation_function", "torch.nn.modules.activation.Tanh")
    reject_unknown(config, set(), f"{prefix}config.json")
    known, _, activation = path.rpartition(".") if isinstance(path, str) else ("", "", "")
    if not re.fullmatch(r"torch\.nn(\.modules(\.\w+)?)?", known) or activation not in ACTIVATIONS:
        raise AdapterMismatch(
            f"the activation {short_repr(path)} of {prefix}config.json is not supported; torch's "
            f"{', '.join(ACTIVATIONS)} are",
            param="activation_function",
        )
    if not isinstance(bias, bool) or not isinstance(residual, bool):
        raise InvalidRequest(f"bias and use_residual of {prefix}config.json must be true or false", param=prefix)
    shapes: dict[str, tuple[Any, ...]] = {"linear.weight": (out, width)}
    if bias:
        shapes["linear.bias"] = (out,)
    if residual and width != out:
        shapes["residual.weight"] = (out, width)
    leaves = _weights(source, prefix, shapes)
    return Dense(
        leaves["linear.weight"],
        leaves.get("linear.bias"),
        activation,
        leaves.get("residual.weight", residual),
    )


def _weights(source: Source, prefix: str, shapes: Mapping[str, tuple[Any, ...]]) -> dict[str, Tensor]:
    """The tensors of a module. Raises UnsupportedFormat for a pickle, InvalidRequest for others than `shapes` has."""
    if any(type(size) is not int or size < 1 for shape in shapes.values() for size in shape):
        raise InvalidRequest(f"{prefix}config.json has no whole numbers for the sizes of its layer", param=prefix)
    name = f"{prefix}{WEIGHTS}"
    if not source.has(name):
        if source.has(f"{prefix}pytorch_model.bin"):
            pickle = f"{prefix}pytorch_model.bin"
            remedy = (
                "save the model as safetensors, or turn an adapter's folder into such with `manyhats convert PATH OUT`"
            )
            raise UnsupportedFormat(pickle_refused(pickle, remedy), param=pickle)
        raise InvalidRequest(f"{MODULES} names '{prefix}', but there is no file '{name}'", param=name)
    tensors = source.tensors(source.folder / name)
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if found != dict(shapes):
        raise InvalidRequest(
            f"{name} has the tensors {short_repr(found)}, but {short_repr(dict(shapes))} are due", param=name
        )
    if not all(tensor.is_floating_point() for tensor in tensors.values()):
        raise InvalidRequest(f"the tensors of {name} are not floating-point numbers", param=name)
    return {key: tensor.float() for key, tensor in tensors.items()}


def check_widths(projection: Projection, width: int) -> None:
    for step in projection.steps:
        if step.width not in (None, width):
            raise AdapterMismatch(
                f"a {type(step).__name__} of {MODULES} takes {step.width} numbers, but what stands before it gives "
                f"{width}",
                param=MODULES,
            )
        width = step.out or width
