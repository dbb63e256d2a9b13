"""What is written is read back the same; `tests/live/test_written.py` has PEFT read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.core.adapter import Adapter
from manyhats.errors import InvalidRequest
from manyhats.formats.reader import read_adapter
from manyhats.formats.writer import write_adapter
from manyhats.methods.heads import Head, KindName, Layer
from manyhats.methods.registry import METHODS

from tests import tiny
from tests.references import adapterhub
from tests.references.peft import References, files_of
from tests.references.peft_recipes import ADAPTERS as PEFT

TEXTS = tiny.texts([1, 8, 30], seed=31)
KINDS: list[tuple[KindName, int]] = [
    ("classify", 3),
    ("classify", 1),
    ("tokens", 5),
    ("regress", 1),
    ("rerank", 1),
    ("embed", 0),
]


def _adapter(backbone: Backbone, method: str, kind: KindName, labels: int) -> Adapter:
    names = [f"label {i}" for i in range(labels)] if kind in ("classify", "tokens") else None
    return tiny.adapter(
        backbone, method, 7, kind=kind, labels=labels, settings={} if names is None else {"labels": names}
    )


@pytest.mark.parametrize("method", tiny.METHOD_NAMES)
@pytest.mark.parametrize(("kind", "labels"), KINDS)
def test_round_trip(backbone: Backbone, tmp_path: Path, method: str, kind: KindName, labels: int) -> None:
    first = _adapter(backbone, method, kind, labels)
    write_adapter(first, tmp_path, backbone)
    again = read_adapter(tmp_path, backbone)
    assert (again.method, again.kind, again.rank) == (first.method, first.kind, first.rank)
    assert again.settings.get("labels") == first.settings.get("labels")
    assert again.base == backbone.name
    assert tiny.difference(tiny.ask(backbone, again, TEXTS), tiny.ask(backbone, first, TEXTS)) < 1e-5
    assert not [path for path in tmp_path.iterdir() if path.suffix not in (".json", ".safetensors")]


@pytest.mark.parametrize("method", tiny.METHOD_NAMES)
def test_what_was_trained_is_read_back(backbone: Backbone, tmp_path: Path, method: str) -> None:
    trainable = METHODS[method].trainable(backbone, {}, torch.Generator().manual_seed(1))
    part = trainable.component()
    head = tiny.head(backbone, "classify", 2, 3)
    first = Adapter(components=(part,), head=head, kind="classify", matched_tensors=1)
    write_adapter(first, tmp_path, backbone)
    again = read_adapter(tmp_path, backbone)
    assert again.nbytes == first.nbytes
    for site, leaves in part.tensors.items():
        for name, tensor in leaves.items():
            assert torch.equal(again.components[0].tensors[site][name], tensor)
    assert tiny.difference(tiny.ask(backbone, again, TEXTS), tiny.ask(backbone, first, TEXTS)) == 0


@pytest.mark.parametrize("name", [n for n in adapterhub.CASES if "_bn-" in n and not n.endswith("-generate")])
def test_adapterhub_adapters_keep_their_flags(tmp_path: Path, name: str) -> None:
    one = adapterhub.case(name)
    assert one.adapter is not None
    write_adapter(one.adapter, tmp_path, one.backbone)
    again = read_adapter(tmp_path, one.backbone)
    assert again.components[0].config == one.adapter.components[0].config
    assert tiny.difference(tiny.ask(one.backbone, again, one.texts), one.expected) < tiny.CLOSE
    written = json.loads((tmp_path / "adapter_config.json").read_text())["config"]
    theirs = json.loads((adapterhub.folder(name) / "adapter_config.json").read_text())["config"]
    for field in ("mh_adapter", "output_adapter", "original_ln_before", "is_parallel", "leave_out", "scaling"):
        assert written[field] == theirs[field]
    if not isinstance(theirs["reduction_factor"], dict):
        assert int(32 // written["reduction_factor"]) == int(32 // theirs["reduction_factor"])


@pytest.mark.parametrize("name", ["ah-bert-seq_bn-ln_before-ln_after", "ah-bert-seq_bn-scaling-channel"])
def test_written_tensors_have_adapterhubs_names(tmp_path: Path, name: str) -> None:
    """The same tensors under the same names, but for the adapter's name."""
    from safetensors import safe_open

    one = adapterhub.case(name)
    assert one.adapter is not None
    write_adapter(one.adapter, tmp_path, one.backbone)

    def names(folder: Path) -> set[str]:
        with safe_open(folder / "adapter.safetensors", framework="pt") as file:
            return set(file.keys())

    theirs = json.loads((adapterhub.folder(name) / "adapter_config.json").read_text())["name"]
    ours = json.loads((tmp_path / "adapter_config.json").read_text())["name"]
    assert {n.replace(f".{ours}.", f".{theirs}.") for n in names(tmp_path)} == names(adapterhub.folder(name))


def test_several_bottleneck_adapters_are_written_in_our_own_format(bert: Backbone, tmp_path: Path) -> None:
    """An adapter of AdapterHub has one, beside which another component has no place."""
    first, second = (tiny.component(bert, "bottleneck", seed) for seed in (1, 2))
    both = Adapter(components=(first, second), head=None, kind="embed", matched_tensors=1)
    write_adapter(both, tmp_path, bert)
    assert not (tmp_path / "adapter_config.json").exists()
    again = read_adapter(tmp_path, bert)
    assert tiny.difference(tiny.ask(bert, again, TEXTS), tiny.ask(bert, both, TEXTS)) == 0


@pytest.mark.parametrize("hidden", [32, 384, 768])
def test_every_width_has_a_reduction_factor(hidden: int) -> None:
    from manyhats.methods.bottleneck.adapterhub import reduction_factor

    assert all(int(hidden // reduction_factor(hidden, width)) == width for width in range(1, hidden + 1))


@pytest.mark.parametrize("name", PEFT)
def test_what_peft_wrote_is_written_the_same(
    peft_references: References, peft_backbone: Any, tmp_path: Path, name: str
) -> None:
    """The same tensors under the same names, and the same method and task."""
    case = PEFT[name]
    backbone = peft_backbone(case.family)
    write_adapter(read_adapter(peft_references.folder("adapters", case.family, name), backbone), tmp_path, backbone)
    theirs, ours = peft_references.answer("adapters", case.family, name).files, files_of(tmp_path)
    tensors, written = theirs["adapter_model.safetensors"], ours["adapter_model.safetensors"]
    assert written.keys() == tensors.keys()
    assert all(torch.equal(written[leaf].to(tensor.dtype), tensor) for leaf, tensor in tensors.items())
    config, own = theirs["adapter_config.json"], ours["adapter_config.json"]
    assert own["peft_type"] == config["peft_type"]
    assert own["task_type"] == (config["task_type"] or "SEQ_CLS")


def test_ranks_and_scales_that_differ(bert: Backbone, tmp_path: Path) -> None:
    first = tiny.uneven_lora(bert)
    write_adapter(first, tmp_path, bert)
    assert tiny.difference(tiny.ask(bert, read_adapter(tmp_path, bert), TEXTS), tiny.ask(bert, first, TEXTS)) < 1e-5


def test_a_head_that_pefts_format_has_no_place_for(load_backbone, tmp_path: Path) -> None:
    backbone = load_backbone("roberta")
    adapter = tiny.adapter(backbone, "lora", 1, kind="classify")
    head = Head("classify", "first", (Layer(torch.zeros(3, 32), None),))
    odd = Adapter(components=adapter.components, head=head, kind="classify", matched_tensors=1)
    with pytest.raises(InvalidRequest, match="2 layers and not 1"):
        write_adapter(odd, tmp_path, backbone)


def test_settings_beside_another_librarys_files(bert: Backbone, tmp_path: Path) -> None:
    settings = {"labels": ["no", "yes", "ä 🦊"], "template": "Is it: {text}?", "max_tokens": 12}
    write_adapter(tiny.adapter(bert, "lora", 1, kind="classify", settings=settings), tmp_path, bert)
    assert dict(read_adapter(tmp_path, bert).settings) == settings
    description = json.loads((tmp_path / "manyhats.json").read_text())
    assert description["format"] == "manyhats-task/1"
    assert description["base_sha256"] == bert.sha256


def test_a_mask_takes_one_bit_a_weight(bert: Backbone, tmp_path: Path) -> None:
    adapter = tiny.adapter(bert, "mask", 1, kept=0.75)
    write_adapter(adapter, tmp_path, bert)
    weights = sum(out * width for out, width in (s.shape for s in bert.linear.values()))
    assert adapter.nbytes == weights // 8
    zeros = json.loads((tmp_path / "manyhats.json").read_text())["zeros_fraction"]
    assert zeros == pytest.approx(0.25, abs=0.02)
