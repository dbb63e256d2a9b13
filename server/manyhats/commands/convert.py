"""`manyhats convert`: pickle files to safetensors, on the user's own machine."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manyhats.errors import InvalidRequest

if TYPE_CHECKING:
    from torch import Tensor

# What the libraries call their weights, as a pickle and as safetensors.
NAMES = {
    "adapter_model.bin": "adapter_model.safetensors",
    "pytorch_adapter.bin": "adapter.safetensors",
    "pytorch_model_head.bin": "model_head.safetensors",
    "pytorch_model_adapter_fusion.bin": "model_adapter_fusion.safetensors",
    "pytorch_model_embeddings.bin": "model_embeddings.safetensors",
}
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def convert(
    path: Annotated[Path, typer.Argument(help="an adapter folder with pickle files")],
    out: Annotated[Path, typer.Argument(help="the folder to write; must be empty or not exist")],
) -> None:
    """Turns an adapter's pickle files into safetensors. Only tensors are read (torch.load with weights_only)."""
    written = convert_folder(path, out)
    typer.echo(f"{out}: {written} weight files as safetensors")


def convert_folder(path: Path, out: Path) -> int:
    """Copies an adapter folder, its pickles as safetensors; returns how many there were.

    Raises InvalidRequest for a folder without pickles, a target that is not empty, or a pickle that holds more than
    tensors.
    """
    from safetensors.torch import save_file  # here, so that commands that only talk to a server start quickly

    if not path.is_dir():
        raise InvalidRequest(f"'{path}' is no folder")
    if out.exists() and any(out.iterdir()):
        raise InvalidRequest(f"'{out}' is not empty")
    files = sorted(p for p in path.rglob("*") if p.is_file())
    if not any(p.suffix in _PICKLES for p in files):
        raise InvalidRequest(f"'{path}' holds no pickle file ({', '.join('*' + s for s in _PICKLES)})")
    count = 0
    for file in files:
        target = out / file.relative_to(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix not in _PICKLES:
            shutil.copyfile(file, target)
            continue
        target = target.with_name(NAMES.get(file.name, file.stem + ".safetensors"))
        save_file(_tensors(file), target, metadata={"format": "pt"})
        count += 1
    return count


def _tensors(file: Path) -> dict[str, Tensor]:
    import torch

    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InvalidRequest(f"'{file.name}' holds more than tensors, or is damaged: {reason}") from None
    if not isinstance(state, dict) or not all(isinstance(t, torch.Tensor) for t in state.values()):
        raise InvalidRequest(f"'{file.name}' is not a plain mapping of names to tensors")
    # Each by itself: safetensors stores no shared memory, pickles may.
    return {str(name): tensor.detach().clone().contiguous() for name, tensor in state.items()}
