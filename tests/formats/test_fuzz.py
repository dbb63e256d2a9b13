"""Whatever an adapter folder holds: it is read, or refused by one of our own errors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from manyhats.backbone import Backbone
from manyhats.errors import ManyhatsError
from manyhats.formats.reader import read_adapter
from manyhats.formats.writer import write_adapter
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.amounts import tried

# Python warns about sets in regular expressions that a later version may read otherwise.
pytestmark = pytest.mark.filterwarnings("ignore:Possible (nested set|set )")

# What is written for: (backbone, method). RoBERTa's head has two layers.
WRITTEN = [(family, method) for family in ("bert", "roberta") for method in tiny.METHOD_NAMES]

# Fields that a written file need not have.
FURTHER = {
    "adapter_config.json": [
        "rank_pattern", "alpha_pattern", "use_rslora", "init_lora_weights", "use_dora", "auto_mapping", "bias",
        "modules_to_save", "config", "model_class", "version", "peft_type", "fan_in_fan_out", "prefix_projection",
    ],
    "adapter_config.json/config": ["leave_out", "use_gating", "inv_adapter", "epsilon", "phm_layer", "architecture"],
    "head_config.json/config": ["use_pooler", "bias"],
    "manyhats.json": ["head", "shapes", "bit_order", "keep_is_one", "zeros_fraction"],
    "manyhats.json/task": ["labels", "template", "max_tokens"],
}  # fmt: skip

_ODD = [
    "", "LORA", "SEQ_CLS", "TOKEN_CLS", "FEATURE_EXTRACTION", "learned", "channel", "post_add", "relu", "prelu",
    "classification", "tagging", "[[a]", "(?i)x", "manyhats-task/1", "manyhats-mask/1", "\x00", "ä🦊", "None",
    0, 1, -1, 2, 3, 4, 5, 32, 0.5, 1e308, 5e-324, 10**30, -(10**400), True, False, None, [], {},
    {"query": 3}, {"query": None}, {"": 1}, {"classifier": 0}, {"base_model_class": ["x"]}, [None], [[]], {"a": {}},
]  # fmt: skip
_TYPES = ["", "query", 0, -(10**400), 0.5, True, None, [], [None], [[]], {"query": None}]
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(_ODD)
VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def written(load_backbone, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], tuple[Path, Backbone]]:
    """A good folder of each method, and the backbone that it is for."""
    root = tmp_path_factory.mktemp("written")

    @cache
    def write(family: str, method: str) -> tuple[Path, Backbone]:
        folder = root / family / method
        folder.mkdir(parents=True)
        backbone = load_backbone(family)
        few = {"only": "query"} if method in ("lora", "mask") else {}
        labels = {"labels": ["a", "b", "c"]}
        write_adapter(tiny.adapter(backbone, method, 1, kind="classify", settings=labels, **few), folder, backbone)
        return folder, backbone

    return write


def read_or_refuse(folder: Path, backbone: Backbone) -> bool:
    """Whether it was read; then it also acts."""
    try:
        adapter = read_adapter(folder, backbone)
    except ManyhatsError as error:
        error.message.encode()  # can be answered with
        return False
    worn = adapter.bind(backbone)
    (states,) = tiny.run(backbone, [tiny.row(backbone, worn, "w1 w2")])
    assert adapter.head is None or states.shape[-1] == adapter.head.num_labels
    assert adapter.base is None or isinstance(adapter.base, str)
    return True


def _places(folder: Path) -> list[tuple[str, list[str], str]]:
    """Every field of every JSON file: file, where its object stands, name."""
    places = []
    for path in sorted(folder.glob("*.json")):
        outer = json.loads(path.read_text())
        for where, value in [([], outer), *(([k], v) for k, v in outer.items() if isinstance(v, dict))]:
            further = FURTHER.get("/".join([path.name, *where]), [])
            places += [(path.name, where, name) for name in [*value, *further]]
    return places


@tried(25, 200)
@pytest.mark.parametrize(("family", "method"), WRITTEN)
def test_fields_of_any_value(written, tmp_path: Path, family: str, method: str, amount: int) -> None:
    source, backbone = written(family, method)
    folder = Path(shutil.copytree(source, tmp_path / "damaged"))
    places = _places(source)

    @settings(max_examples=amount, deadline=None)
    @given(changes=st.lists(st.tuples(st.sampled_from(places), VALUES, st.booleans()), min_size=1, max_size=3))
    def check(changes: list[tuple[tuple[str, list[str], str], Any, bool]]) -> None:
        files = {path.name: json.loads(path.read_text()) for path in source.glob("*.json")}
        for (name, where, field), value, gone in changes:
            inner = files[name]
            for step in where:
                inner = inner[step] if isinstance(inner, dict) and isinstance(inner.get(step), dict) else None
            if inner is None:
                continue
            if gone and value is None:
                inner.pop(field, None)
            else:
                inner[field] = value
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content))
        read_or_refuse(folder, backbone)

    check()


@pytest.mark.parametrize("method", tiny.METHOD_NAMES)
def test_every_field_of_each_type(written, tmp_path: Path, method: str) -> None:
    """Each field alone with a value of each type."""
    source, backbone = written("roberta", method)
    folder = Path(shutil.copytree(source, tmp_path / "damaged"))
    read = 0
    for name, where, field in _places(source):
        good = (source / name).read_text()
        for value in _TYPES:
            content = json.loads(good)
            inner = content
            for step in where:
                inner = inner[step]
            inner[field] = value
            (folder / name).write_text(json.dumps(content))
            read += read_or_refuse(folder, backbone)
        (folder / name).write_text(good)
    assert read
    assert read_or_refuse(folder, backbone)


@tried(10, 80)
@pytest.mark.parametrize(("family", "method"), WRITTEN)
def test_whole_files_of_any_value(written, tmp_path: Path, family: str, method: str, amount: int) -> None:
    source, backbone = written(family, method)
    folder = Path(shutil.copytree(source, tmp_path / "damaged"))
    names = sorted(path.name for path in source.glob("*.json"))

    @settings(max_examples=amount, deadline=None)
    @given(name=st.sampled_from(names), value=VALUES)
    def check(name: str, value: Any) -> None:
        (folder / name).write_text(json.dumps(value))
        read_or_refuse(folder, backbone)
        shutil.copy(source / name, folder / name)

    check()


@tried(20, 150)
@pytest.mark.parametrize(("family", "method"), WRITTEN)
def test_tensors_of_any_name_and_shape(written, tmp_path: Path, family: str, method: str, amount: int) -> None:
    source, backbone = written(family, method)
    folder = Path(shutil.copytree(source, tmp_path / "damaged"))
    files = {path.name: load_file(path) for path in sorted(source.glob("*.safetensors"))}
    places = [(file, name) for file, tensors in files.items() for name in sorted(tensors)]
    shapes = st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 8, 32, 33, 64, 128]), max_size=4)
    types = st.sampled_from([torch.float32, torch.float16, torch.int64, torch.uint8, torch.bool])
    names = st.none() | st.text(max_size=6) | st.sampled_from([name for _, name in places])
    ends = st.sampled_from(["", ".", ".weight", ".bias", ".lora_A.weight", ".mask", ".1.weight", ".scaling"])

    @settings(max_examples=amount, deadline=None)
    @given(place=st.sampled_from(places), shape=st.none() | shapes, dtype=types, name=names, end=ends)
    def check(place: tuple[str, str], shape: list[int] | None, dtype: torch.dtype, name: str | None, end: str) -> None:
        file, old = place
        tensors = {n: t.clone() for n, t in files[file].items()}
        changed = tensors.pop(old)
        if shape is not None and torch.Size(shape).numel() < 10_000:
            changed = torch.zeros(shape).to(dtype)
        tensors[old if name is None else name + end] = changed
        save_file(tensors, folder / file, metadata={"format": "pt"})
        read_or_refuse(folder, backbone)
        shutil.copy(source / file, folder / file)

    check()


@tried(50, 400)
@pytest.mark.parametrize("method", tiny.METHOD_NAMES)
def test_damaged_bytes(written, tmp_path: Path, method: str, amount: int) -> None:
    source, backbone = written("bert", method)
    folder = Path(shutil.copytree(source, tmp_path / "damaged"))
    contents = {path.name: path.read_bytes() for path in sorted(source.iterdir())}

    @settings(max_examples=amount, deadline=None)
    @given(
        name=st.sampled_from(sorted(contents)),
        place=st.floats(0, 1, exclude_max=True),
        early=st.booleans(),
        new=st.binary(max_size=12),
        cut=st.integers(0, 12),
    )
    def check(name: str, place: float, early: bool, new: bytes, cut: int) -> None:
        content = contents[name]
        at = int(place * (min(len(content), 400) if early else len(content)))
        (folder / name).write_bytes(content[:at] + new + content[at + cut :])
        read_or_refuse(folder, backbone)
        (folder / name).write_bytes(content)

    check()
