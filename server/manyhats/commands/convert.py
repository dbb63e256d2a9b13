"""`manyhats convert`: pickle files to safetensors, and PEFT's differences to plain weights, on the user's machine."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def convert(
    path: Annotated[Path, typer.Argument(help="an adapter folder with pickle files")],
    out: Annotated[Path, typer.Argument(help="the folder to write; must be empty or not exist")],
    backbone: Annotated[
        str, typer.Option(help="make plain weights of a PEFT method that is not served as it is (LoHa, LoKr, OFT, ...)")
    ] = "",
) -> None:
    """Turns an adapter's pickle files into safetensors. Only tensors are read (torch.load with weights_only)."""
    if backbone:
        from manyhats.commands.differences import materialise

        changed = materialise(path, out, backbone)
        typer.echo(f"{out}: {changed} changed parameters as safetensors")
        return
    written = convert_folder(path, out)
    typer.echo(f"{out}: {written} weight files as safetensors")


def convert_folder(path: Path, out: Path) -> int:
    """Copies an adapter folder, its pickles as safetensors; returns how many there were.

    Raises InvalidRequest for a folder without pickles, a target that is not empty, a pickle that holds more than
    tensors, or two files that would get one name; nothing is written then.
    """
    from safetensors.torch import save_file  # here, so that commands that only talk to a server start quickly

    check_folders(path, out)
    places = _places(path)
    converted = {file: _tensors(file) for file in places.values() if _is_pickle(file)}
    if not converted:
        raise InvalidRequest(f"'{path}' holds no pickle file ({', '.join('*' + s for s in _PICKLES)})")
    try:
        for place, file in places.items():
            target = out / place
            target.parent.mkdir(parents=True, exist_ok=True)
            if file in converted:
                save_file(converted[file], target, metadata={"format": "pt"})
            else:
                shutil.copyfile(file, target)
    except OSError as error:
        raise InvalidRequest(f"'{out}' cannot be written: {error.strerror or error}") from None
    return len(converted)


def check_folders(path: Path, out: Path) -> None:
    """Raises InvalidRequest where there is no folder to read, or none to write that is empty or does not exist."""
    if not path.is_dir():
        raise InvalidRequest(f"'{path}' is no folder")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InvalidRequest(f"'{out}' is {'not empty' if out.is_dir() else 'no folder'}")


def _is_pickle(file: Path) -> bool:
    return file.suffix.lower() in _PICKLES


def _places(path: Path) -> dict[Path, Path]:
    """What goes where: the files of a folder by the place, relative to the target, that each gets."""
    places: dict[Path, Path] = {}
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        place = file.relative_to(path)
        if _is_pickle(file):
            place = place.with_name(NAMES.get(file.name, file.stem + ".safetensors"))
        if place in places:
            raise InvalidRequest(
                f"'{places[place].name}' and '{file.name}' would both become '{place}'; take one of them away"
            )
        places[place] = file
    return places


def _tensors(file: Path) -> dict[str, Tensor]:
    import torch

    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what damaged bytes make of the unpickler is anything
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InvalidRequest(f"'{file.name}' holds more than tensors, or is damaged: {reason}") from None
    if not isinstance(state, dict) or not all(isinstance(n, str) and _is_plain(t) for n, t in state.items()):
        raise InvalidRequest(f"'{file.name}' is not a plain mapping of names to tensors")
    # Each by itself: safetensors stores no shared memory, pickles may.
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


def _is_plain(value: Any) -> bool:
    """Whether it is a tensor whose numbers lie in memory one after the other: not sparse, quantized or without any."""
    import torch

    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and not value.is_quantized
        and not value.is_meta
    )
