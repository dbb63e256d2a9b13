"""Side-tuning against a plain dense computation: both networks run by transformers, every text alone."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.errors import AdapterMismatch, InvalidRequest, ManyhatsError
from manyhats.formats.reader import read_adapter
from manyhats.methods.side import Side
from manyhats.methods.side.frame import frame_of
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModel

from tests import every, tiny

TEXTS = tiny.texts([2, 11, 35], seed=6)


def wrote(folder: Path, tensors: dict[str, Tensor], **description: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "manyhats.json").write_text(json.dumps({"format": "manyhats-side/1"} | description))
    save_file({n: t.contiguous().clone() for n, t in tensors.items()}, folder / "weights.safetensors")
    return folder


def small(family: str, width: int, seed: int) -> Any:
    config = tiny.config(family)
    config.num_hidden_layers = 1
    config.hidden_size = width
    model = AutoModel.from_config(config).eval()
    tiny.randomise(model, seed)
    return model


@pytest.mark.parametrize("family", ["bert", "roberta", "llama"])
@pytest.mark.parametrize("width", [32, 16])
def test_a_smaller_model_beside(family: str, width: int, tmp_path: Path, base_folder: Any, load_backbone: Any) -> None:
    backbone: Backbone = load_backbone(family)
    side = small(family, width, 4)
    alpha = torch.randn(32, generator=torch.Generator().manual_seed(1)) if width == 32 else torch.tensor(0.3)
    tensors = {f"side.{n}": t for n, t in side.state_dict().items()} | {"alpha": alpha}
    projection = nn.Linear(width, 32)
    options: dict[str, Any] = {}
    if width != 32:
        tensors |= {"projection.weight": projection.weight.data, "projection.bias": projection.bias.data}
        options["projection"] = "linear"
    folder = wrote(tmp_path / "a", tensors, kind="model", side_model_config=side.config.to_dict(), **options)
    adapter = read_adapter(folder, backbone)
    assert adapter.method == "side"
    base = AutoModel.from_pretrained(base_folder(family)).eval()
    expected = []
    for text in TEXTS:
        ids = torch.tensor([tiny.row(backbone, tiny.BARE, text).ids])
        with torch.inference_mode():
            s = side(input_ids=ids).last_hidden_state[0]
            s = projection(s) if options else s
            b = base(input_ids=ids).last_hidden_state[0]
            expected.append(torch.sigmoid(alpha) * b + (1 - torch.sigmoid(alpha)) * s)
    assert tiny.difference(tiny.ask(backbone, adapter, TEXTS), expected) < tiny.CLOSE
    worn = tiny.bound(backbone, adapter)
    others = [tiny.BARE, tiny.bound(backbone, tiny.adapter(backbone, "lora", 2)), worn]
    rows = [tiny.row(backbone, others[i % 3], text) for i, text in enumerate(TEXTS * 3)]
    assert tiny.difference(tiny.run(backbone, rows), [tiny.run(backbone, [row])[0] for row in rows]) < 1e-5


@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2", "qwen2"])
def test_blocks_on_the_backbones_embeddings(family: str, tmp_path: Path, base_folder: Any, load_backbone: Any) -> None:
    backbone: Backbone = load_backbone(family)
    config = tiny.config(family)
    config.num_hidden_layers = 1
    side = AutoModel.from_config(config).eval()
    tiny.randomise(side, 9)
    base = AutoModel.from_pretrained(base_folder(family)).eval()
    # The reference's side network is the whole small model, with the backbone's own embeddings.
    first = backbone.family.block.split("{i}")[0]
    names = list(side.state_dict())
    embeddings = {n.partition(".")[0] for n in names[: next(i for i, n in enumerate(names) if n.startswith(first))]}
    side.load_state_dict(
        {n: t for n, t in base.state_dict().items() if n.partition(".")[0] in embeddings}, strict=False
    )
    tensors = {
        f"side.{n}": t for n, t in side.state_dict().items() if n.partition(".")[0] not in {*embeddings, "pooler"}
    }
    adapter = read_adapter(
        wrote(tmp_path / "a", tensors | {"alpha": torch.tensor([-0.4])}, kind="layers", layers=1), backbone
    )
    expected = []
    blend = torch.sigmoid(torch.tensor(-0.4))
    for text in TEXTS:
        ids = torch.tensor([tiny.row(backbone, tiny.BARE, text).ids])
        with torch.inference_mode():
            s, b = side(input_ids=ids).last_hidden_state[0], base(input_ids=ids).last_hidden_state[0]
        expected.append(blend * b + (1 - blend) * s)
    assert tiny.difference(tiny.ask(backbone, adapter, TEXTS), expected) < tiny.CLOSE


@pytest.mark.parametrize("family", [*tiny.FAMILIES, *tiny.DECODERS])
def test_networks_of_many_tasks_run_in_one_pass(family: str, load_backbone: Any, monkeypatch: Any) -> None:
    """Beside other adapters; each answers as alone."""
    backbone: Backbone = load_backbone(family)
    plain = tiny.adapter(backbone, "lora", 1)
    worn = [
        tiny.bound(backbone, replace(plain, components=(every.parts(backbone, seed)["side"],))) for seed in range(4)
    ]
    worn += [tiny.BARE, tiny.bound(backbone, plain)]
    rows = [tiny.row(backbone, worn[i % 6], text) for i, text in enumerate(TEXTS * 5)]
    expected = [tiny.run(backbone, [row])[0] for row in rows]
    assert tiny.difference(expected[:1], tiny.run(backbone, [replace(rows[0], adapter=worn[1])])) > 0.01
    passes: list[str] = []
    encode = Backbone.encode
    monkeypatch.setattr(Backbone, "encode", lambda self, *given: passes.append(self.name) or encode(self, *given))
    assert tiny.difference(tiny.run(backbone, rows), expected) < 1e-5
    assert passes == [backbone.name, "side"]


def test_a_frame_takes_a_row_of_memory_for_each_weight_and_goes_with_its_last_network(base_folder: Any) -> None:
    bert = tiny.load(base_folder("bert"))  # which no other test's networks use
    component = every.parts(bert)["side"]
    bound = Side().bind(component, bert)
    frame = frame_of(component.config, bert, bert.dtype)
    tables = [*frame.linear.values(), *frame.embedding.values()]
    parameters = [own for one in tables for own in one.module.parameters(recurse=False)]
    assert all(own.untyped_storage().nbytes() == own[:1].nbytes for own in parameters)
    gone = weakref.ref(frame)
    del bound, frame, tables, parameters
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"side_model_config": {"model_type": "t5"}}, "'t5' is not supported"),
        ({"side_model_config": {"model_type": "bert", "num_hidden_layers": 100000}}, "between 1 and 64"),
        ({"side_model_config": {"model_type": "bert", "hidden_size": -1}}, "between 1 and"),
        ({"side_model_config": {"model_type": "distilbert", "n_layers": 10**6}}, "n_layers.* between 1 and 64"),
        ({"side_model_config": {"model_type": "gpt2", "n_embd": 10**9}}, "n_embd.* between 1 and"),
        ({"side_model_config": {"model_type": "bert", "num_labels": 10**12}}, "vocabulary|has no|has '|tokens|shape"),
        ({"side_model_config": {"model_type": "bert", "hidden_size": 33}}, "makes no model|has no|shape"),
        ({"kind": "layers", "layers": 0}, "needs one or more"),
        ({"kind": "layers", "layers": 2}, "has no"),
        ({"kind": "layers", "layers": 99}, "less than or equal to 64"),
        ({"merge": "film"}, "alpha"),
    ],
)
def test_what_makes_no_side_network(tmp_path: Path, bert: Backbone, fields: dict, told: str) -> None:
    side = small("bert", 32, 1)
    tensors = {f"side.{n}": t for n, t in side.state_dict().items()} | {"alpha": torch.zeros(1)}
    folder = wrote(tmp_path / "a", tensors, **({"side_model_config": side.config.to_dict()} | fields))
    with pytest.raises(ManyhatsError, match=told) as caught:
        read_adapter(folder, bert)
    assert isinstance(caught.value, (AdapterMismatch, InvalidRequest))
