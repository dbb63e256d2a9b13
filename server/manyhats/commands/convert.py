"""`manyhats convert`: pickle files to safetensors, and PEFT's differences to plain weights, on the user's machine."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manyhats.commands.connection import print_json
from manyhats.commands.folders import check_folders
from manyhats.errors import InvalidRequest, WrongUsage
from manyhats.messages import first_line

if TYPE_CHECKING:
    from torch import Tensor

    from manyhats.formats.contents import Contents


def convert(
    path: Annotated[Path, typer.Argument(help="an adapter folder with pickle files")],
    out: Annotated[Path, typer.Argument(help="the folder to write; must be empty or not exist")],
    backbone: Annotated[
        str,
        typer.Option(help="make plain weights of a PEFT method that is not supported as it is (LoHa, LoKr, OFT, ...)"),
    ] = "",
    kind: Annotated[
        str, typer.Option(help="with --backbone: what the adapter is for, where its files do not say")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="print what was written as a JSON object")] = False,
) -> None:
    """Turns an adapter's pickle files into safetensors. Only tensors are read (torch.load with weights_only)."""
    if backbone:
        from manyhats.commands.differences import materialise
        from manyhats.core.kinds.registry import KINDS

        if kind and kind not in KINDS:
            raise WrongUsage(f"--kind is '{kind[:100]}'; these are: {', '.join(KINDS)}", param="kind")
        changed = materialise(path, out, backbone, kind or None)
        if as_json:
            print_json({"path": str(out), "changed_parameters": changed})
        else:
            typer.echo(f"{out}: {changed} changed parameters as safetensors")
        return
    written, warnings = convert_folder(path, out)
    if as_json:
        print_json({"path": str(out), "weight_files": written, "warnings": list(warnings)})
    else:
        typer.echo(f"{out}: {written} weight files as safetensors")
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)


def convert_folder(path: Path, out: Path) -> tuple[int, tuple[str, ...]]:
    """Copies an adapter's files, weights in pickles as safetensors; what its trainer left beside them stays behind.

    Returns how many pickles were turned into safetensors, and warnings about what was left out, which is never opened.
    Raises InvalidRequest for a folder without weights or with several adapters, a target that is not empty, a pickle
    that holds more than tensors, or two files that would get one name; nothing is written then.
    """
    from safetensors.torch import save_file  # here, so that commands that only talk to a server start quickly

    from manyhats.formats.contents import names_of, select
    from manyhats.formats.pickles import PICKLES

    check_folders(path, out)
    contents = select(names_of(path))
    if contents.several:
        contents.check()
    places = _places(path, contents)
    converted = {path / name: _tensors(path / name) for name in contents.refused}
    if not converted and not any(file.suffix == ".safetensors" for file in places.values()):
        raise InvalidRequest(
            f"'{path}' holds no pickle file ({', '.join('*' + s for s in PICKLES)}) and no safetensors"
        )
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
    return len(converted), contents.warnings()


def _places(path: Path, contents: Contents) -> dict[Path, Path]:
    """What goes where: the adapter's files by the place, relative to the target, that each gets."""
    from manyhats.formats.contents import as_safetensors

    places: dict[Path, Path] = {}
    for name in sorted((*contents.kept, *contents.refused)):
        file, place = path / name, Path(contents.place(name))
        if name in contents.refused:
            place = place.with_name(as_safetensors(place.name))
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
        reason = first_line(error)
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
