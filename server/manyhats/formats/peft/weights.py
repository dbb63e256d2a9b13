"""Reads PEFT's weights, in one file or in shards, under PEFT's own names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from manyhats.errors import InvalidRequest
from manyhats.formats.files import read_json, read_tensors
from manyhats.formats.peft.names import INDEX, SHARDS, WEIGHTS
from manyhats.formats.peft.types import PEFT_TYPES
from manyhats.formats.wrappers import bare, check_gathered, renamed
from manyhats.messages import short_repr
from manyhats.methods.libraries.equal_weights import equal_weights
from manyhats.methods.libraries.peft import PROMPT_EMBEDDINGS, PROMPT_WRAPPER, WRAPPER
from manyhats.methods.libraries.unclaimed import UnclaimedTensors

_SHARD = re.compile(r"adapter_model-(\d{5})-of-(\d{5})\.safetensors")
# After these PEFT has an adapter's name, which it removes when it saves.
_LEAVES = sorted({leaf for peft_type in PEFT_TYPES.values() for leaf in peft_type.leaves} | {"modules_to_save"})
_SHARED = tuple(name for peft_type in PEFT_TYPES.values() for name in peft_type.shared)
_NAMED = re.compile(rf"((?:.+\.)?(?:{'|'.join(_LEAVES)}))\.([^.]+)((?:\.[^.]+)*)")
_PARAMETERS = ("weight", "bias")
_KEPT_NAMES = 1000  # of a file whose new names are kept
_TWICE = re.compile(r"(.+)\.(modules_to_save|original_module)\.((?:.+\.)?(?:weight|bias))")


def open_weights(folder: Path, *, prompt: bool) -> UnclaimedTensors:
    """An adapter's tensors. `prompt`: whether its type is prompt learning, which has another wrapper.

    Raises InvalidRequest for damaged or incomplete files, for empty tensors, and where a name can be read in two ways.
    """
    tensors = _shards(folder)
    check_gathered(tensors, WEIGHTS)
    warnings: list[str] = []
    names, prefix = tuple(tensors), PROMPT_WRAPPER if prompt else WRAPPER
    # Adapters that one recipe trained have the same names.
    new = (_renamed_once if len(names) <= _KEPT_NAMES else _renamed)(names, prefix)
    tensors = renamed(tensors, dict(zip(names, new, strict=True)).__getitem__, WEIGHTS, warnings)
    return UnclaimedTensors(_once(tensors), WEIGHTS, warnings)


def _shards(folder: Path) -> dict[str, Tensor]:
    """All tensors, of one file or of all shards."""
    found = {path.name: path for path in sorted(folder.glob(SHARDS))}
    if not found:
        return read_tensors(folder / WEIGHTS)
    first = next(iter(found))
    if (folder / WEIGHTS).is_file():
        raise InvalidRequest(f"there are both {WEIGHTS} and '{first}'; send one of them", param=first)
    match = _SHARD.fullmatch(first)
    wanted = [f"adapter_model-{i + 1:05}-of-{match[2]}.safetensors" for i in range(int(match[2]))] if match else []
    if list(found) != wanted:
        missing = sorted(set(wanted) - set(found)) or sorted(set(found) - set(wanted))
        raise InvalidRequest(
            f"the shards of {WEIGHTS} are not complete: see '{missing[0]}'; there are {len(found)}",
            param=missing[0],
        )
    tensors: dict[str, Tensor] = {}
    files: dict[str, str] = {}
    for file, path in found.items():
        for name, tensor in read_tensors(path).items():
            if name in tensors:
                raise InvalidRequest(f"'{name}' is both in '{files[name]}' and in '{file}'", param=name)
            tensors[name], files[name] = tensor, file
    if (folder / INDEX).is_file():
        _check_index(read_json(folder / INDEX).get("weight_map"), files)
    return tensors


def _check_index(index: Any, files: Mapping[str, str]) -> None:
    """`files`: where each tensor is. Raises InvalidRequest for an index that says otherwise."""
    if not isinstance(index, dict):
        raise InvalidRequest(f"weight_map of {INDEX} must be an object, not {short_repr(index)}", param="weight_map")
    for name, file in index.items():
        if files.get(name) != file:
            raise InvalidRequest(f"{INDEX} says that '{name}' is in {str(file)[:80]!r}, but it is not", param=name)


def _renamed(given: tuple[str, ...], prefix: str) -> tuple[str, ...]:
    """The file's names as PEFT writes them: no wrappers but one of PEFT's, and no adapter's name."""
    names = [bare(name) for name in given]
    unwrapped = not any(name.startswith(prefix) for name in names)
    adapters = {match[2] for name in names if (match := _NAMED.fullmatch(name)) and _is_adapters(match)}
    if len(adapters) > 1:
        raise InvalidRequest(
            f"{WEIGHTS} holds the weights of {len(adapters)} adapters ({', '.join(sorted(adapters)[:8])}); save one",
            param=WEIGHTS,
        )

    def rename(name: str) -> str:
        wrapped = False
        while name.startswith(WRAPPER):
            name, wrapped = bare(name.removeprefix(WRAPPER)), True
        if wrapped:
            name = f"{WRAPPER}{name}"
        if unwrapped and not name.startswith((PROMPT_WRAPPER, PROMPT_EMBEDDINGS)):
            name = f"{PROMPT_WRAPPER if name.startswith(_SHARED) else prefix}{name}"
        match = _NAMED.fullmatch(name)
        return f"{match[1]}{match[3]}" if match and _is_adapters(match) else name

    return tuple(map(rename, names))


_renamed_once = lru_cache(32)(_renamed)


def _is_adapters(match: re.Match[str]) -> bool:
    """Whether the match is an adapter's name, and not a parameter or a submodule."""
    if match[1].endswith("modules_to_save"):
        # `classifier.modules_to_save.default.weight`, but `classifier.modules_to_save.dense.weight`
        return match[2] == "default"
    return match[2] not in _PARAMETERS


def _once(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Removes duplicates of `modules_to_save`, of which the file may hold three copies: under the module's name, and
    under the wrapper's two, of the original and of the trained module."""
    found = dict(tensors)
    for name, tensor in tensors.items():
        match = _TWICE.fullmatch(name)
        if match is None:
            continue
        del found[name]
        if match[2] == "original_module":
            continue
        own = f"{match[1]}.{match[3]}"
        if own in tensors and not equal_weights(tensor, tensors[own]):
            raise InvalidRequest(f"{WEIGHTS} has two values for '{own}', the other is '{name}'", param=name)
        found.setdefault(own, tensor)
    return found
