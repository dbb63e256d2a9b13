"""Adapters of AdapterHub, every method of it: the outputs that its own library computed."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from manyhats.commands.convert import convert_folder
from manyhats.errors import UnsupportedFormat
from manyhats.formats.adapterhub.names import PICKLED as PICKLED_NAMES
from manyhats.formats.reader import read_adapter
from manyhats.methods.bound_adapter import BARE
from safetensors.torch import load_file
from torch import Tensor

from tests import tiny
from tests.references.adapterhub import BASES, CASES, PICKLED, ROOT, STORE, Case, base, case, folder

METHODS_OF = {
    "dora": ("lora",),
    "fusion": ("fusion",),
    "ia3": ("ia3",),
    "lora": ("lora",),
    "mam": ("prefix+bottleneck",),
    "prefix": ("prefix",),
    "prompt": ("prompt",),
    "seq_bn_inv": ("invertible+bottleneck",),
    "unipelt": ("prefix+bottleneck+lora",),
}


def continued(asked: Case, texts: list[str], wanted: list[Tensor]) -> list[list[int]]:
    """Greedy tokens, all texts in one batch at every step."""
    worn = tiny.bound(asked.backbone, asked.adapter) if asked.adapter else BARE
    rows = [replace(tiny.row(asked.backbone, worn, text), next_token=True) for text in texts]
    new: list[list[int]] = [[] for _ in rows]
    for _ in range(max(map(len, wanted))):
        for i, logits in enumerate(tiny.run(asked.backbone, rows)):
            new[i].append(int(logits.argmax()))
            rows[i] = replace(rows[i], ids=[*rows[i].ids, new[i][-1]], type_ids=[*rows[i].type_ids, 0])
    return new


def test_the_cases_are_there() -> None:
    assert len(CASES) > 90
    assert sorted(BASES) == ["bert", "distilbert", "gpt2", "llama", "roberta"]


SPOKEN = [name for name in CASES if "generate" in name or name in ("base-gpt2", "base-llama")]
READ = [name for name in CASES if name not in SPOKEN]


@pytest.mark.parametrize("name", CASES)
def test_the_tokens_are_the_librarys(name: str) -> None:
    asked = case(name)
    assert [tiny.row(asked.backbone, BARE, text).ids for text in asked.texts] == [i.tolist() for i in asked.input_ids]


@pytest.mark.parametrize("name", SPOKEN)
def test_continues_as_the_library(name: str) -> None:
    asked = case(name)
    chosen = [i for i in range(len(asked.texts)) if i not in asked.close]
    wanted = [asked.expected[i] for i in chosen]
    assert continued(asked, [asked.texts[i] for i in chosen], wanted) == [w.tolist() for w in wanted]


@pytest.mark.parametrize("name", READ)
def test_equals_the_library(name: str) -> None:
    asked = case(name)
    together = tiny.ask(asked.backbone, asked.adapter, asked.texts)
    one_by_one = tiny.alone(asked.backbone, asked.adapter, asked.texts)
    assert tiny.difference(together, asked.expected) < tiny.CLOSE
    assert tiny.difference(one_by_one, asked.expected) < tiny.CLOSE


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("base-")])
def test_what_the_reader_says(name: str) -> None:
    asked = case(name)
    adapter = asked.adapter
    assert adapter is not None
    assert adapter.method in METHODS_OF.get(asked.description["method"], ("bottleneck",))
    assert adapter.kind == asked.description["kind"]
    assert (adapter.rank is None) == (adapter.method == "ia3")
    labels = asked.description.get("labels")
    if labels and adapter.kind != "regress":
        assert adapter.settings["labels"] == labels
    if asked.description.get("num_labels"):
        assert adapter.head is not None
        assert adapter.head.num_labels == asked.description["num_labels"]


@pytest.mark.parametrize("name", BASES)
def test_all_in_one_batch(name: str) -> None:
    """Every case of a backbone, with the other methods beside them."""
    backbone = base(name)
    asked = [case(n) for n in READ if case(n).backbone is backbone]
    rows, expected = [], []
    for one in asked:
        worn = tiny.bound(backbone, one.adapter)
        rows += [tiny.row(backbone, worn, text) for text in one.texts[:3]]
        expected += one.expected[:3]
    for i, method in enumerate(("lora", "prefix", "mask")):
        worn = tiny.bound(backbone, tiny.adapter(backbone, method, 20 + i, kind="classify", labels=2 + i))
        batch = tiny.texts([3, 18], seed=i)
        rows += [tiny.row(backbone, worn, text) for text in batch]
        expected += tiny.alone(backbone, worn, batch)
    order = list(range(len(rows)))
    random.Random(0).shuffle(order)
    outputs = tiny.run(backbone, [rows[i] for i in order])
    assert tiny.difference(outputs, [expected[i] for i in order]) < tiny.CLOSE


# ---- pickles, which is all that the library can write of some methods


def refused_then_converted(upload: Path, name: str, converted: Path) -> None:
    """The folder is refused with a word of `manyhats convert`, and that makes the stored case of it."""
    with pytest.raises(UnsupportedFormat, match="manyhats convert"):
        read_adapter(upload, case(name).backbone)
    convert_folder(upload, converted)
    files = {path.name for path in folder(name).iterdir()}
    assert {path.name for path in converted.iterdir()} == files
    for file in files:
        if file.endswith(".json"):
            assert (converted / file).read_bytes() == (folder(name) / file).read_bytes()
            continue
        ours, stored = load_file(converted / file), load_file(folder(name) / file)
        assert ours.keys() == stored.keys()
        assert all(torch.equal(ours[key], stored[key]) for key in ours)


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "pickles").iterdir()))
def test_the_librarys_own_pickles(tmp_path: Path, name: str) -> None:
    upload = shutil.copytree(folder(name), tmp_path / "upload", ignore=shutil.ignore_patterns("*.safetensors"))
    shutil.copytree(ROOT / "pickles" / name, upload, dirs_exist_ok=True)
    refused_then_converted(upload, name, tmp_path / "converted")


def test_there_are_pickled_cases() -> None:
    assert len(PICKLED) == 19
    assert {STORE.lines[name]["method"] for name in PICKLED} == {"prefix", "mam", "unipelt", "seq_bn"}


@pytest.mark.parametrize("name", PICKLED)
def test_pickles_are_refused(tmp_path: Path, name: str) -> None:
    """The files that the library writes for the case, made again from the stored tensors."""
    upload = shutil.copytree(folder(name), tmp_path / "upload")
    pickled_names = {safe: pickled for pickled, safe in PICKLED_NAMES.items()}
    for file in upload.glob("*.safetensors"):
        torch.save(load_file(file), upload / pickled_names[file.name])
        file.unlink()
    refused_then_converted(upload, name, tmp_path / "converted")
