"""What wrappers of a model leave in its tensors' names, and weights in shards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.formats.reader import read_adapter
from manyhats.formats.wrappers import bare
from manyhats.formats.writer import write_adapter
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests import tiny
from tests.references.peft import References

WEIGHTS = "adapter_model.safetensors"
TEXTS = tiny.texts([3, 7])
Rename = Callable[[str], str]

# What each wrapper does to `base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight`.
WAYS: dict[str, Rename] = {
    "compiled": lambda n: f"_orig_mod.{n}",
    "compiled inside": lambda n: n.replace("base_model.model.", "base_model.model._orig_mod."),
    "compiled layers": lambda n: n.replace(".layer.", "._orig_mod.layer."),
    "parallel": lambda n: f"module.{n}",
    "parallel twice": lambda n: f"module.module.{n}",
    "parallel inside": lambda n: n.replace("base_model.model.", "base_model.model.module."),
    "parallel and compiled": lambda n: f"module._orig_mod.{n}",
    "sharded": lambda n: n.replace(".attention.", "._fsdp_wrapped_module.attention."),
    "sharded and checkpointed": lambda n: n.replace(".0.", ".0._fsdp_wrapped_module._checkpoint_wrapped_module."),
    "sharded, long ago": lambda n: f"_fsdp_wrapped_module._fpw_module.{n}",
    "adapter's name": lambda n: n.replace(".weight", ".default.weight") if ".lora_" in n else n,
    "another adapter's name": lambda n: n.replace(".weight", ".my-adapter.weight") if ".lora_" in n else n,
    "head's name": lambda n: n.replace("classifier.", "classifier.modules_to_save.default."),
    "head without a name": lambda n: n.replace("classifier.", "classifier.modules_to_save."),
    "no wrapper": lambda n: n.removeprefix("base_model.model."),
    "twice": lambda n: f"base_model.model.{n}",
    "three times": lambda n: f"base_model.model.module.base_model.model.{n}",
}


@pytest.fixture(scope="module")
def plain(bert: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA with a head."""
    folder = tmp_path_factory.mktemp("plain")
    write_adapter(tiny.adapter(bert, "lora", 3, kind="classify"), folder, bert)
    return folder


def changed(plain: Path, into: Path, rename: Rename, file: str = WEIGHTS) -> Path:
    shutil.copytree(plain, into)
    tensors = {rename(name): tensor.clone() for name, tensor in load_file(plain / file).items()}
    save_file(tensors, into / file, metadata={"format": "pt"})
    return into


@pytest.mark.parametrize("way", WAYS)
def test_names_are_read_without_wrappers(bert: Backbone, plain: Path, tmp_path: Path, way: str) -> None:
    expected = read_adapter(plain, bert)
    adapter = read_adapter(changed(plain, tmp_path / "a", WAYS[way]), bert)
    assert adapter.matched_tensors == expected.matched_tensors
    assert tiny.difference(tiny.ask(bert, adapter, TEXTS), tiny.ask(bert, expected, TEXTS)) == 0
    assert bool(adapter.warnings) == (way != "head without a name")  # that one PEFT writes itself
    assert all(WEIGHTS in warning for warning in adapter.warnings)


@pytest.mark.parametrize("method", ["vera", "ia3", "adalora", "ln", "prefix", "prompt", "shira", "beft"])
def test_every_method_of_peft(peft_references: References, peft_backbone: Any, tmp_path: Path, method: str) -> None:
    backbone, folder = peft_backbone("bert"), peft_references.folder("matrix", "bert", method)
    expected = tiny.ask(backbone, read_adapter(folder, backbone), TEXTS)
    for i, rename in enumerate((lambda n: f"module._orig_mod.{n}", lambda n: n.removeprefix("base_model.model."))):
        adapter = read_adapter(changed(folder, tmp_path / str(i), rename), backbone)
        assert tiny.difference(tiny.ask(backbone, adapter, TEXTS), expected) == 0


@pytest.mark.parametrize(
    ("method", "file"), [("bottleneck", "adapter"), ("bottleneck", "model_head"), ("mask", "weights")]
)
def test_other_formats(bert: Backbone, tmp_path: Path, method: str, file: str) -> None:
    (tmp_path / "plain").mkdir()
    write_adapter(tiny.adapter(bert, method, 3, kind="classify"), tmp_path / "plain", bert)
    (tmp_path / "plain" / "manyhats.json").unlink() if method != "mask" else None
    expected = tiny.ask(bert, read_adapter(tmp_path / "plain", bert), TEXTS)
    rename: Rename = lambda n: f"module._orig_mod.{n}"  # noqa: E731
    if method == "mask":
        rename = lambda n: n if n.startswith("head.") else n.replace("layer.", "_fsdp_wrapped_module.layer.")  # noqa: E731
    adapter = read_adapter(changed(tmp_path / "plain", tmp_path / "a", rename, f"{file}.safetensors"), bert)
    assert tiny.difference(tiny.ask(bert, adapter, TEXTS), expected) == 0
    assert len(adapter.warnings) == 1


def test_a_mask_whose_description_has_the_same_names(bert: Backbone, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    write_adapter(tiny.adapter(bert, "mask", 3, kind="classify"), tmp_path / "plain", bert)
    folder = changed(
        tmp_path / "plain",
        tmp_path / "a",
        lambda n: n if n.startswith("head.") else f"module.{n}",
        "weights.safetensors",
    )
    described = json.loads((folder / "manyhats.json").read_text())
    described["shapes"] = {f"module.{site}": shape for site, shape in described["shapes"].items()}
    (folder / "manyhats.json").write_text(json.dumps(described))
    expected = tiny.ask(bert, read_adapter(tmp_path / "plain", bert), TEXTS)
    assert tiny.difference(tiny.ask(bert, read_adapter(folder, bert), TEXTS), expected) == 0


@pytest.mark.parametrize(
    "name", ["encoder._orig_module.x", "my_orig_mod.x", "encoder.module.x", "modules.x", "a.default.x"]
)
def test_other_names_stay(name: str) -> None:
    assert bare(name) == name


def test_names_that_fall_together_are_refused(bert: Backbone, plain: Path, tmp_path: Path) -> None:
    folder = changed(plain, tmp_path / "a", lambda n: n)
    tensors = load_file(plain / WEIGHTS)
    twin = next(iter(tensors))
    save_file(tensors | {f"_orig_mod.{twin}": tensors[twin].clone()}, folder / WEIGHTS)
    with pytest.raises(InvalidRequest, match="are both"):
        read_adapter(folder, bert)


def test_two_adapters_in_one_file_are_refused(bert: Backbone, plain: Path, tmp_path: Path) -> None:
    names = iter(("one", "two") * 100)
    folder = changed(
        plain, tmp_path / "a", lambda n: n.replace(".weight", f".{next(names)}.weight") if ".lora_" in n else n
    )
    with pytest.raises(InvalidRequest, match=r"2 adapters \(one, two\)"):
        read_adapter(folder, bert)


def test_a_name_that_is_none_is_refused_as_it_is_read(bert: Backbone, plain: Path, tmp_path: Path) -> None:
    folder = changed(plain, tmp_path / "a", lambda n: f"_orig_mod.{n.replace('query', 'nowhere')}")
    with pytest.raises(AdapterMismatch, match=r"'bert\.encoder\.layer\.\d\.attention\.self\.nowhere'"):
        read_adapter(folder, bert)


def split(plain: Path, into: Path, index: Any = None, count: int = 2) -> Path:
    """The weights in two shards, of which the second says that there are `count`."""
    shutil.copytree(plain, into)
    (into / WEIGHTS).unlink()
    tensors: dict[str, Tensor] = load_file(plain / WEIGHTS)
    names = sorted(tensors)
    for i, chosen in enumerate((names[:3], names[3:])):
        save_file({n: tensors[n] for n in chosen}, into / f"adapter_model-{i + 1:05}-of-{count:05}.safetensors")
    if index is not None:
        (into / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": index}))
    return into


def test_shards_are_one_file(bert: Backbone, plain: Path, tmp_path: Path) -> None:
    names = sorted(load_file(plain / WEIGHTS))
    expected = tiny.ask(bert, read_adapter(plain, bert), TEXTS)
    index = {n: f"adapter_model-0000{1 + (i > 2)}-of-00002.safetensors" for i, n in enumerate(names)}
    for i, told in enumerate((None, {}, index)):
        adapter = read_adapter(split(plain, tmp_path / str(i), told), bert)
        assert adapter.matched_tensors == len(names)
        assert tiny.difference(tiny.ask(bert, adapter, TEXTS), expected) == 0


def test_shards_that_are_not_complete_are_refused(bert: Backbone, plain: Path, tmp_path: Path) -> None:
    name = sorted(load_file(plain / WEIGHTS))[0]
    wrong = {name: "adapter_model-00002-of-00002.safetensors"}
    for i, (folder, told) in enumerate(
        [
            (split(plain, tmp_path / "three", count=3), "adapter_model-00003-of-00003"),
            (split(plain, tmp_path / "wrong", wrong), "is in 'adapter_model-00002"),
            (split(plain, tmp_path / "list", [1]), "weight_map"),
            (split(plain, tmp_path / "both"), "there are both"),
        ]
    ):
        if i == 3:
            shutil.copyfile(plain / WEIGHTS, folder / WEIGHTS)
        with pytest.raises(InvalidRequest, match=told):
            read_adapter(folder, bert)


@pytest.mark.parametrize("empty", [True, False])
def test_weights_that_were_not_gathered_name_the_cause(
    bert: Backbone, plain: Path, tmp_path: Path, empty: bool
) -> None:
    folder = changed(plain, tmp_path / "a", lambda n: n)
    save_file({n: torch.empty(0) for n in load_file(plain / WEIGHTS)} if empty else {}, folder / WEIGHTS)
    with pytest.raises(InvalidRequest, match="ZeRO-3"):
        read_adapter(folder, bert)
