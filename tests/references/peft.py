"""The stored references of PEFT: the files that it wrote and what it answered, from `tests/fixtures/peft`.

One line of JSON a case in `<family>.jsonl`; its tensors stand by the hashes of their contents in
`<family>.safetensors`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

SOURCE = Path(__file__).parents[1] / "fixtures" / "peft"
METADATA = {"format": "pt"}
Files = Mapping[str, Any]  # by name: a JSON file's object, or a safetensors file's tensors by name


@dataclass(frozen=True)
class Answer:
    """What PEFT gave: its files; its outputs, or the tokens that it wrote (None: near ties); or why it has none."""

    files: Files = field(default_factory=dict)
    outputs: tuple[Tensor, ...] = ()
    tokens: tuple[list[int] | None, ...] = ()
    absent: str | None = None


# ---- files


def files_of(folder: Path) -> dict[str, Any]:
    """The JSON and safetensors files of a folder."""
    found: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".json":
            found[path.name] = json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".safetensors":
            found[path.name] = load_file(path)
    return found


def write_files(files: Files, folder: Path) -> Path:
    """Writes them back, byte for byte as PEFT and transformers write them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if name.endswith(".safetensors"):
            save_file(dict(content), folder / name, metadata=METADATA)
        else:
            end = "" if name == "adapter_config.json" else "\n"
            text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + end
            (folder / name).write_text(text, encoding="utf-8")
    return folder


# ---- what is stored


def digest(tensor: Tensor) -> str:
    """A short hash of a tensor's dtype, shape and values."""
    plain = tensor.detach().contiguous().cpu()
    told = f"{plain.dtype}{tuple(plain.shape)}".encode()
    return hashlib.sha256(told + plain.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()[:12]


class Shelf:
    """A family's cases while they are written: every tensor once."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._tensors: dict[str, Tensor] = {}

    def put(self, tensor: Tensor) -> str:
        """Its hash; equal ones are one."""
        key = digest(tensor)
        held = self._tensors.setdefault(key, tensor.detach().contiguous().clone())
        if not torch.equal(held, tensor):
            raise ValueError(f"two tensors have the hash {key}")
        return key

    def add(self, about: dict[str, Any], answer: Answer) -> None:
        """One line."""
        line = dict(about)
        if answer.absent is not None:
            line["absent"] = answer.absent
        if answer.files:
            line["files"] = {
                name: {n: self.put(t) for n, t in content.items()} if name.endswith(".safetensors") else content
                for name, content in answer.files.items()
            }
        if answer.outputs:
            line["outputs"] = [self.put(output) for output in answer.outputs]
        if answer.tokens:
            line["tokens"] = list(answer.tokens)
        self._lines.append(json.dumps(line, ensure_ascii=False))

    def write(self, folder: Path, family: str) -> None:
        """Both files."""
        (folder / f"{family}.jsonl").write_text("".join(f"{line}\n" for line in self._lines), encoding="utf-8")
        save_file(dict(sorted(self._tensors.items())), folder / f"{family}.safetensors", metadata=METADATA)


def _key(family: str, line: dict[str, Any]) -> str:
    return f"{family} {line['group']} {line['case']}"


class _Family:
    def __init__(self, source: Path, family: str) -> None:
        self._tensors_path = source / f"{family}.safetensors"
        lines = (source / f"{family}.jsonl").read_text(encoding="utf-8").splitlines()
        self.lines = [json.loads(line) for line in lines]

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self._tensors_path)

    def answer(self, line: dict[str, Any]) -> Answer:
        files = {
            name: {n: self.tensors[key].clone() for n, key in content.items()}
            if name.endswith(".safetensors")
            else content
            for name, content in line.get("files", {}).items()
        }
        outputs = tuple(self.tensors[key] for key in line.get("outputs", ()))
        return Answer(files, outputs, tuple(line.get("tokens", ())), line.get("absent"))


class References:
    """The stored cases, and folders under `root` with their files."""

    def __init__(self, root: Path, source: Path = SOURCE) -> None:
        self.root = root
        self._source = source
        self._family = cache(lambda family: _Family(source, family))

    def every(self) -> dict[str, Answer]:
        """All that is stored, by family, group and case; the models by family and name."""
        found = {}
        for path in sorted(self._source.glob("*.jsonl")):
            family = self._family(path.stem)
            for line in family.lines:
                key = f"{path.stem} base {line['base']}" if "base" in line else _key(path.stem, line)
                found[key] = family.answer(line)
        return found

    def names(self, group: str, family: str) -> list[str]:
        """The cases of a group on a family, in their order."""
        return [line["case"] for line in self._family(family).lines if line.get("group") == group]

    def answer(self, group: str, family: str, name: str) -> Answer:
        """A case's; KeyError where it is not stored."""
        found = self._family(family)
        for line in found.lines:
            if (line.get("group"), line.get("case")) == (group, name):
                return found.answer(line)
        raise KeyError(f"no stored case {group}, {family}, {name}: python -m tests.fixtures.peft.make write")

    def folder(self, group: str, family: str, name: str) -> Path:
        """The adapter's files, as PEFT wrote them."""
        folder = self.root / "adapters" / group / family / name
        return folder if folder.exists() else write_files(self.answer(group, family, name).files, folder)

    def base(self, name: str) -> Path:
        """A model's files, with its tokenizer's. `name`: a family, or `<family>-masked` for one with that head."""
        folder = self.root / "bases" / name
        if folder.exists():
            return folder
        family = self._family(name.removesuffix("-masked"))
        (line,) = (line for line in family.lines if line.get("base") == name)
        write_files(family.answer(line).files, folder)
        for path in (self._source / "tokenizers" / line["tokenizer"]).iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        return folder


# ---- comparing


def _tensors(what: str, one: Mapping[str, Tensor], other: Mapping[str, Tensor], close: float) -> list[str]:
    told = [f"{what}: no {name}" for name in sorted(one.keys() - other.keys())]
    told += [f"{what}: a new {name}" for name in sorted(other.keys() - one.keys())]
    for name in sorted(one.keys() & other.keys()):
        old, new = one[name], other[name]
        if (old.dtype, old.shape) != (new.dtype, new.shape):
            told.append(f"{what}: {name} is {new.dtype}{tuple(new.shape)}, and was {old.dtype}{tuple(old.shape)}")
        elif not torch.allclose(old, new, rtol=0, atol=close):
            told.append(f"{what}: {name} differs by {float((old.float() - new.float()).abs().max()):.2g}")
    return told


def differences(stored: Answer, made: Answer, close: float, ignore: frozenset[str] = frozenset()) -> list[str]:
    """What PEFT gives otherwise than what is stored; empty where nothing. `ignore`: fields of JSON files."""
    told = []
    if (stored.absent is None) != (made.absent is None):
        told.append(f"absent: {made.absent!r}, and was {stored.absent!r}")
    told += [f"no file {name}" for name in sorted(stored.files.keys() - made.files.keys())]
    told += [f"a new file {name}" for name in sorted(made.files.keys() - stored.files.keys())]
    for name in sorted(stored.files.keys() & made.files.keys()):
        old, new = stored.files[name], made.files[name]
        if name.endswith(".safetensors"):
            told += _tensors(name, old, new, 1e-6)
            continue
        for key in sorted((old.keys() | new.keys()) - ignore):
            if key not in old or key not in new or _ordered(old[key]) != _ordered(new[key]):
                told.append(f"{name}: {key} is {new.get(key, 'missing')!r}, and was {old.get(key, 'missing')!r}")
    if len(stored.outputs) != len(made.outputs):
        told.append(f"{len(made.outputs)} outputs, and {len(stored.outputs)} were stored")
    told += _tensors("output", dict(_numbered(stored)), dict(_numbered(made)), close)
    if len(stored.tokens) != len(made.tokens):
        told.append(f"{len(made.tokens)} texts, and {len(stored.tokens)} were stored")
    for old, new in zip(stored.tokens, made.tokens, strict=False):
        if old != new and old is not None and new is not None:
            told.append(f"writes {new}, and wrote {old}")
    return told


def _ordered(value: Any) -> Any:
    """PEFT keeps names in sets, and writes them in any order."""
    named = isinstance(value, list) and all(isinstance(one, str) for one in value)
    return sorted(value) if named else value


def _numbered(answer: Answer) -> list[tuple[str, Tensor]]:
    return [(str(i), output) for i, output in enumerate(answer.outputs)]
