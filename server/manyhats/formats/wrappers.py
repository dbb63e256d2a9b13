"""Removes from tensors' names what wrappers of the model added (torch.compile, DDP, FSDP, ...)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from manyhats.errors import InvalidRequest
from manyhats.formats.files import read_tensors
from manyhats.methods.libraries.unclaimed import UnclaimedTensors
from manyhats.methods.libraries.wrappers import bare as bare

_MAX_NAME = 120  # characters of a name


def renamed(
    tensors: Mapping[str, Tensor], rename: Callable[[str], str], file: str, warnings: list[str]
) -> dict[str, Tensor]:
    """The tensors by the names that `rename` gives them; adds a warning where one changes.

    Raises InvalidRequest where two tensors would get one name.
    """
    found: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for name, tensor in tensors.items():
        new = rename(name)
        if new in found:
            raise InvalidRequest(
                f"'{origin[new]}' and '{name}' of {file} are both '{new}' without what wrappers of the model left in "
                "their names; save one of them",
                param=name,
            )
        found[new], origin[new] = tensor, name
    changed = [(name, new) for new, name in origin.items() if new != name]
    if changed:
        name, new = changed[0]
        warnings.append(
            f"{len(changed)} names in {file} are not as its library writes them (wrappers of a model leave "
            f"their own in them); they are read as if they were, '{name[:_MAX_NAME]}' as '{new[:_MAX_NAME]}'"
        )
    return found


def open_tensors(path: Path) -> UnclaimedTensors:
    """A file's tensors by their names without wrappers. Raises what `read_tensors` and `renamed` raise."""
    warnings: list[str] = []
    tensors = renamed(read_tensors(path), bare, path.name, warnings)
    return UnclaimedTensors(tensors, path.name, warnings)


def check_gathered(tensors: Mapping[str, Tensor], file: str) -> None:
    """Raises InvalidRequest where a trainer saved sharded weights without gathering them: they are empty, or
    missing."""
    empty = next((name for name, tensor in tensors.items() if tuple(tensor.shape) == (0,)), None)
    if tensors and empty is None:
        return
    found = f"'{empty}' in {file} is empty" if tensors else f"{file} holds no tensors"
    raise InvalidRequest(
        f"{found}: it seems to have been saved while DeepSpeed ZeRO-3 or FSDP held the weights in parts. Gather them "
        "when saving (DeepSpeed: stage3_gather_16bit_weights_on_model_save, or zero_to_fp32.py on the checkpoint)",
        param=empty or file,
    )
