"""A vocabulary's tables beside a LoRA: the backbone's own, or trained, in any precision."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.errors import AdapterMismatch
from manyhats.formats.reader import read_adapter
from manyhats.methods.libraries.equal_weights import equal_weights
from manyhats.methods.operations import OwnWeight
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests import tiny

EMBED, HEAD = "base_model.model.model.embed_tokens", "base_model.model.lm_head"
FULL, HALF, BRAIN = torch.float32, torch.float16, torch.bfloat16
TEXTS = tiny.texts([3, 7])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_base("llama", tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def backbone(base: Path) -> Backbone:
    return tiny.load(base)


@pytest.fixture
def folder(backbone: Backbone, tmp_path: Path) -> Path:
    """A LoRA on the embedding, the output layer and a layer in between."""
    generator = torch.Generator().manual_seed(5)
    query = "model.layers.0.self_attn.q_proj"
    words, width = backbone.config.vocab_size, backbone.hidden
    out, inside = backbone.site_of(query).shape
    shapes = {
        f"{EMBED}.lora_embedding_A": (4, words),
        f"{EMBED}.lora_embedding_B": (width, 4),
        f"{HEAD}.lora_A.weight": (4, width),
        f"{HEAD}.lora_B.weight": (words, 4),
        f"base_model.model.{query}.lora_A.weight": (4, inside),
        f"base_model.model.{query}.lora_B.weight": (out, 4),
    }
    tensors = {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def own(backbone: Backbone, name: str) -> Tensor:
    site = backbone.embedding["embed_tokens"] if name == EMBED else backbone.linear["lm_head"]
    weight = site.parameter("weight")
    assert weight is not None
    return weight.detach().clone()


def add(folder: Path, **tensors: Tensor) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({n: t.clone() for n, t in load_file(path).items()} | tensors, path)


@pytest.mark.parametrize("dtype", [FULL, HALF, BRAIN])
@pytest.mark.parametrize("leaf", [".base_layer.weight", ".weight"])
@pytest.mark.parametrize("name", [EMBED, HEAD])
def test_the_backbones_own_in_any_precision_does_nothing(
    backbone: Backbone, folder: Path, name: str, leaf: str, dtype: torch.dtype
) -> None:
    expected = tiny.ask(backbone, read_adapter(folder, backbone), TEXTS)
    add(folder, **{f"{name}{leaf}": own(backbone, name).to(dtype)})
    adapter = read_adapter(folder, backbone)
    assert [part.method for part in adapter.components] == ["lora"]
    assert adapter.matched_tensors == 7
    assert tiny.difference(tiny.ask(backbone, adapter, TEXTS), expected) == 0


@pytest.mark.parametrize("dtype", [FULL, BRAIN])
def test_a_trained_table_beneath_a_lora_acts(
    base: Path, backbone: Backbone, folder: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    """As the same LoRA does on a backbone that has these weights itself."""
    model = AutoModelForCausalLM.from_pretrained(base)
    tables = {EMBED: model.get_input_embeddings(), HEAD: model.get_output_embeddings()}
    changes = {}
    for i, (name, table) in enumerate(tables.items()):
        noise = torch.randn(table.weight.shape, generator=torch.Generator().manual_seed(i)) * 0.3
        table.weight.data = (table.weight.data + noise).to(dtype).float()
        changes[f"{name}.base_layer.weight"] = table.weight.data.to(dtype)
    model.save_pretrained(tmp_path / "other")
    for file in base.iterdir():
        if not (tmp_path / "other" / file.name).exists():
            (tmp_path / "other" / file.name).write_bytes(file.read_bytes())
    other = tiny.load(tmp_path / "other")
    plain = read_adapter(folder, other)
    expected = tiny.ask(other, plain, TEXTS)
    assert tiny.difference(tiny.ask(backbone, read_adapter(folder, backbone), TEXTS), expected) > 0.01
    add(folder, **changes)
    adapter = read_adapter(folder, backbone)
    assert [part.method for part in adapter.components] == ["parameters", "lora"]
    assert tiny.difference(tiny.ask(backbone, adapter, TEXTS), expected) < tiny.CLOSE
    operations = [one for _, bound in adapter.bind(backbone).components for one in bound.linear.get("lm_head", ())]
    own = [one.layer for one in operations if isinstance(one, OwnWeight)]
    assert torch.equal(own[0].weight, changes[f"{HEAD}.base_layer.weight"].float())


@pytest.mark.parametrize("rows", [-3, 5])
@pytest.mark.parametrize("leaf", [".base_layer.weight", ".weight", ".modules_to_save.weight"])
@pytest.mark.parametrize("name", [EMBED, HEAD])
def test_a_resized_vocabulary_is_refused_by_name(
    backbone: Backbone, folder: Path, name: str, leaf: str, rows: int
) -> None:
    weight = own(backbone, name)
    resized = weight[:rows] if rows < 0 else torch.cat([weight, weight[:rows]])
    add(folder, **{f"{name}{leaf}": resized.contiguous()})
    with pytest.raises(
        AdapterMismatch, match=rf"{len(resized)} rows, but the backbone .* has {len(weight)}: .*resized"
    ):
        read_adapter(folder, backbone)


def test_a_table_that_pefts_wrapper_saved_three_times_is_one(backbone: Backbone, folder: Path) -> None:
    """As with `save_embedding_layers` beside `modules_to_save`."""
    trained = own(backbone, EMBED) + 1
    add(
        folder,
        **{
            f"{HEAD}.weight": trained,
            f"{HEAD}.modules_to_save.weight": trained.clone(),
            f"{HEAD}.original_module.weight": own(backbone, HEAD),
        },
    )
    (part,) = [part for part in read_adapter(folder, backbone).components if part.method == "parameters"]
    assert torch.equal(part.tensors["lm_head"]["weight"], trained)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    config = tiny.config("llama")
    config.tie_word_embeddings = True
    model = AutoModelForCausalLM.from_config(config)
    tiny.randomise(model, 1)
    folder = tmp_path_factory.mktemp("tied")
    model.save_pretrained(folder)
    tiny.tokenizer("llama").save_pretrained(folder)
    return tiny.load(folder)


@pytest.mark.parametrize("missing", [None, EMBED, HEAD])
def test_a_tied_output_layer_is_adapted_as_the_file_says(tied: Backbone, folder: Path, missing: str | None) -> None:
    """With `ensure_weight_tying` PEFT adapts both, and saves both."""
    config = json.loads((folder / "adapter_config.json").read_text()) | {"ensure_weight_tying": True}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    path = folder / "adapter_model.safetensors"
    tensors = {n: t.clone() for n, t in load_file(path).items() if missing is None or not n.startswith(missing)}
    save_file(tensors, path)
    if missing is not None:
        with pytest.raises(AdapterMismatch, match="ensure_weight_tying"):
            read_adapter(folder, tied)
        return
    (part,) = read_adapter(folder, tied).components
    assert {"embed_tokens", "lm_head"} <= part.tensors.keys()


def test_layers_that_are_the_backbones_own_take_no_room(backbone: Backbone, folder: Path) -> None:
    """As in a file that holds the whole model."""
    weight = backbone.linear["layers.0.self_attn.k_proj"].weight.detach()
    add(folder, **{"base_model.model.model.layers.0.self_attn.k_proj.weight": weight.to(BRAIN)})
    assert [part.method for part in read_adapter(folder, backbone).components] == ["lora"]


STEP = 2**-7  # of bfloat16, beside 1


@pytest.mark.parametrize(
    ("one", "other", "change", "equal"),
    [
        (FULL, FULL, lambda t: t, True),
        (FULL, FULL, lambda t: t * (1 + 1e-6), False),
        (FULL, HALF, lambda t: t, True),
        (FULL, HALF, lambda t: t * (1 + 2**-9), False),
        (FULL, BRAIN, lambda t: t, True),
        (FULL, BRAIN, lambda t: t * (1 + 2 * STEP), False),
        (HALF, BRAIN, lambda t: t, True),
        (HALF, BRAIN, lambda t: t * (1 + 4 * STEP), False),
        (torch.float64, FULL, lambda t: t, True),
    ],
)
def test_weights_are_compared_as_exactly_as_the_coarser_type_tells(
    one: torch.dtype, other: torch.dtype, change: Callable[[Tensor], Tensor], equal: bool
) -> None:
    weights = torch.randn(9000, 3, generator=torch.Generator().manual_seed(0)).double() * 0.02
    changed = weights.clone()
    changed[8999] = change(weights[8999])  # in the last rows alone
    for left, right in ((weights.to(one), changed.to(other)), (changed.to(one), weights.to(other))):
        assert equal_weights(left, right) == equal
        assert equal_weights(right, left) == equal
    assert not equal_weights(weights, weights[:-1])
