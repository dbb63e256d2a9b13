"""Adapters made of stored ones: the same answers as when their members are put together by hand."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.core.adapter import Adapter
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.formats.reader import read_adapter
from manyhats.formats.writer import write_adapter
from manyhats.registry.blobs import digest
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.references.adapterhub import case, folder

TEXTS = tiny.texts([2, 9, 31], seed=4)


class Stored:
    """Folders by their digest, as the registry has them."""

    def __init__(self, root: Path, backbone: Backbone) -> None:
        self.root, self.backbone = root, backbone
        self.folders: dict[str, Path] = {}

    def keep(self, folder: Path) -> str:
        sha = digest(folder)
        self.folders[sha] = folder
        return sha

    def write(self, adapter: Adapter) -> str:
        folder = self.root / f"m{len(self.folders)}"
        folder.mkdir()
        write_adapter(adapter, folder, self.backbone)
        return self.keep(folder)

    def compose(self, tensors: dict[str, torch.Tensor] | None = None, **description: Any) -> Adapter:
        folder = self.root / f"c{len(list(self.root.iterdir()))}"
        folder.mkdir()
        (folder / "manyhats.json").write_text(json.dumps(description))
        if tensors:
            save_file(tensors, folder / "weights.safetensors")
        return read_adapter(folder, self.backbone, self.resolve)

    def resolve(self, sha: str) -> Path:
        if sha not in self.folders:
            raise InvalidRequest(f"no stored version has the sha256 '{sha}'", param="members")
        return self.folders[sha]


@pytest.fixture
def stored(tmp_path: Path, bert: Backbone) -> Stored:
    return Stored(tmp_path, bert)


@pytest.mark.parametrize("name", ["ah-bert-fusion-dynamic-setup", "ah-roberta-fusion-static-setup"])
def test_a_fusion_by_digest_equals_the_library(tmp_path: Path, name: str) -> None:
    """AdapterHub's own fusion, its members uploaded one by one and named by their digests."""
    one = case(name)
    upload = folder(name)
    stored = Stored(tmp_path, one.backbone)
    (fusion,) = upload.glob("*,*")
    config = json.loads((fusion / "adapter_fusion_config.json").read_text())
    members = [stored.keep(upload / member) for member in config["adapter_names"]]
    tensors = {}
    for key, tensor in load_file(fusion / "model_adapter_fusion.safetensors").items():
        layer = key.split(".layer.")[1].split(".")[0]
        place = "attention" if ".attention." in key else "ffn"
        leaf = ".".join(key.rsplit(".", 2)[1:])
        tensors[f"layers.{layer}.{place}.{leaf}"] = tensor
    fields = ("key", "query", "value", "query_before_ln", "residual_before", "value_before_softmax")
    adapter = stored.compose(
        tensors, format="manyhats-fusion/1", members=members, fusion={f: config["config"][f] for f in fields}
    )
    assert adapter.method == "fusion"
    assert adapter.references == tuple(sorted(members))
    assert tiny.difference(tiny.ask(one.backbone, adapter, one.texts), one.expected) < tiny.CLOSE


def test_a_stack_runs_its_members_in_order(stored: Stored, bert: Backbone) -> None:
    language = tiny.adapter(bert, "bottleneck", 1, original_ln_before=True)
    task = tiny.adapter(bert, "bottleneck", 2, kind="classify")
    lora = tiny.adapter(bert, "lora", 3)
    members = [stored.write(a) for a in (language, lora, task)]
    adapter = stored.compose(format="manyhats-stack/1", members=members)
    by_hand = replace(task, components=(*language.components, *lora.components, *task.components))
    assert adapter.kind == "classify"
    assert tiny.difference(tiny.ask(bert, adapter, TEXTS), tiny.ask(bert, by_hand, TEXTS)) < 1e-6
    turned = stored.compose(format="manyhats-stack/1", members=[members[2], members[1], members[0]])
    assert tiny.difference(tiny.ask(bert, adapter, TEXTS), tiny.ask(bert, turned, TEXTS)) > 1e-3


def test_an_average_of_loras_is_the_average_of_their_differences(stored: Stored, bert: Backbone) -> None:
    loras = [tiny.adapter(bert, "lora", seed, rank=2 + seed) for seed in (1, 2)]
    members = [stored.write(a) for a in loras]
    adapter = stored.compose(format="manyhats-average/1", members=members, weights=[0.25, 0.75])
    assert adapter.rank == 7
    part = adapter.components[0]
    for site, leaves in part.tensors.items():
        wanted = sum(
            w
            * a.components[0].config.scales[site]
            * a.components[0].tensors[site]["B"]
            @ a.components[0].tensors[site]["A"]  # type: ignore[attr-defined]
            for w, a in zip((0.25, 0.75), loras, strict=True)
        )
        assert torch.allclose(leaves["B"] @ leaves["A"], wanted, atol=1e-6)


def test_an_average_of_one_adapter_with_itself_is_that_adapter(stored: Stored, bert: Backbone) -> None:
    one = tiny.adapter(bert, "bottleneck", 5, original_ln_before=True)
    other = tiny.adapter(bert, "bottleneck", 6, original_ln_before=True)
    members = [stored.write(one), stored.write(other)]
    same = stored.compose(format="manyhats-average/1", members=[members[0], members[0]])
    assert tiny.difference(tiny.ask(bert, same, TEXTS), tiny.ask(bert, one, TEXTS)) < 1e-5
    wholly = stored.compose(format="manyhats-average/1", members=members, weights=[0.0, 1.0])
    assert tiny.difference(tiny.ask(bert, wholly, TEXTS), tiny.ask(bert, other, TEXTS)) < 1e-5


def test_what_cannot_be_put_together(stored: Stored, bert: Backbone) -> None:
    lora, mask = stored.write(tiny.adapter(bert, "lora", 1)), stored.write(tiny.adapter(bert, "mask", 1))
    with pytest.raises(AdapterMismatch, match="cannot be averaged"):
        stored.compose(format="manyhats-average/1", members=[lora, mask])
    several = stored.compose(format="manyhats-stack/1", members=[lora, lora])
    parts = stored.write(several)
    for format in ("manyhats-average/1", "manyhats-fusion/1"):
        with pytest.raises(AdapterMismatch, match=f"the member {parts[:12]} has 2 parts, and cannot be") as caught:
            stored.compose({"x": torch.ones(1)}, format=format, members=[parts, parts])
        assert caught.value.param == parts
    with pytest.raises(AdapterMismatch, match="two parts of the adapter bring a weight"):
        stored.compose(format="manyhats-stack/1", members=[mask, mask])
    with pytest.raises(InvalidRequest, match="no stored version"):
        stored.compose(format="manyhats-stack/1", members=[lora, "0" * 64])
    with pytest.raises(InvalidRequest, match="two members or more"):
        stored.compose(format="manyhats-stack/1", members=[lora])
    with pytest.raises(InvalidRequest, match="members"):
        stored.compose(format="manyhats-stack/1", members=[lora, "../../etc"])
    nested = lora
    for i in range(6):
        folder = stored.root / f"n{i}"
        folder.mkdir()
        (folder / "manyhats.json").write_text(json.dumps({"format": "manyhats-stack/1", "members": [nested, lora]}))
        nested = stored.keep(folder)
    with pytest.raises(InvalidRequest, match="nested deeper"):
        read_adapter(stored.folders[nested], bert, stored.resolve)


def test_adapterhubs_stack_is_a_stack(tmp_path: Path) -> None:
    """`save_adapter_setup` of Stack("a", "b"): the second adapter reads what the first one made."""
    one = case("ah-bert-fusion-dynamic-setup")
    theirs = folder("ah-bert-fusion-dynamic-setup")
    upload = tmp_path / "setup"
    upload.mkdir()
    for name in ("a", "b"):
        shutil.copytree(theirs / name, upload / name)
    children = [{"type": "single", "children": [name]} for name in ("a", "b")]
    setup = {"adapter_setup": {"type": "Stack", "children": children}, "head_setup": None, "version": "adapters.1.3.0"}
    (upload / "adapter_setup.json").write_text(json.dumps(setup))
    stack = read_adapter(upload, one.backbone)
    stored = Stored(tmp_path, one.backbone)
    members = [stored.keep(theirs / name) for name in ("a", "b")]
    ours = stored.compose(format="manyhats-stack/1", members=members)
    answers = tiny.ask(one.backbone, stack, one.texts)
    assert tiny.difference(answers, tiny.ask(one.backbone, ours, one.texts)) == 0
    alone = read_adapter(theirs / "b", one.backbone)
    assert tiny.difference(answers, tiny.ask(one.backbone, alone, one.texts)) > 1e-3
    (upload / "extra.safetensors").write_bytes((theirs / "a" / "adapter.safetensors").read_bytes())
    with pytest.raises(InvalidRequest, match=r"'extra\.safetensors' belongs to no config"):
        read_adapter(upload, one.backbone)
    (upload / "extra.safetensors").unlink()
    setup["adapter_setup"]["type"] = "Parallel"  # type: ignore[index]
    (upload / "adapter_setup.json").write_text(json.dumps(setup))
    with pytest.raises(AdapterMismatch, match="'Parallel' is not supported"):
        read_adapter(upload, one.backbone)
