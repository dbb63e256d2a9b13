"""Adapters and the outputs that another library computed for them, stored in as few files as that takes.

A store is a folder with

- `cases.jsonl`: one line of JSON a case. `name` is the case's; `files` has the content of every JSON file of the
  adapter's folder, by its path in there; `same` has the tensors that are stored once for several names, as
  `{name: the name of the stored one}`. The rest of a line is for whoever compares.
- `cases/<name>.safetensors`: the tensors of the adapter's files, called `<path>::<name of the tensor>`, and the
  outputs, called `expected::<name>`.
- `bases/<name>/model.safetensors`: the weights of the backbones, which `same` calls `base::<name>`.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

SEPARATOR = "::"
EXPECTED = "expected"
BASE = "base"


class Store:
    """The cases of a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with open(root / "cases.jsonl", encoding="utf-8") as file:
            self.lines: dict[str, dict[str, Any]] = {line["name"]: line for line in map(json.loads, file)}

    def expected(self, name: str) -> dict[str, Tensor]:
        """What the library computed, by name."""
        return self._by_file(name)[EXPECTED]

    def write(self, name: str, folder: Path) -> Path:
        """Writes the adapter's folder as the library wrote it, into a folder that does not exist yet."""
        line = self.lines[name]
        folder.mkdir(parents=True)
        for path, content in line["files"].items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(json.dumps(content, indent=2), encoding="utf-8")
        for path, tensors in self._by_file(name).items():
            if path != EXPECTED:
                save_file(tensors, folder / path)
        return folder

    def _base(self, name: str) -> dict[str, Tensor]:
        return load_file(self.root / "bases" / name / "model.safetensors")

    def _by_file(self, name: str) -> dict[str, dict[str, Tensor]]:
        line = self.lines[name]
        tensors = load_file(self.root / "cases" / f"{name}.safetensors")
        for key, same in line.get("same", {}).items():
            file, _, leaf = same.partition(SEPARATOR)
            tensors[key] = self._base(line["base"])[leaf] if file == BASE else tensors[same].clone()
        files: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            path, leaf = key.split(SEPARATOR)
            files.setdefault(path, {})[leaf] = tensor
        return files


@cache
def scratch() -> Path:
    """An empty folder that lives as long as the process."""
    folder = Path(tempfile.mkdtemp(prefix="references-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
