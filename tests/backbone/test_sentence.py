"""One vector of a text, as sentence-transformers computes it over a padded batch."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone, loading, sentence_files, transformers_internals
from manyhats.backbone.pooling import PooledRows, PooledVectors
from manyhats.backbone.sentence import ACTIVATIONS, MODES, Dense, Norm, Projection, UnitLength
from manyhats.backbone.staging import HostBuffers, StagingBuffer
from manyhats.errors import ConfigurationError
from torch import Tensor, nn

from tests import tiny
from tests.references import sentence

OURS = dict(zip(sentence.MODES, ("cls", "max", "mean", "mean_sqrt_len", "weightedmean", "last"), strict=True))


def states(*lengths: int, width: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, width, generator=generator) for n in lengths]


def pooled(texts: list[Tensor], modes: list[str], skip: int = 0) -> Tensor:
    """The vectors of texts whose states lie side by side."""
    staging = StagingBuffer(HostBuffers(texts[0].device))
    stops = itertools.accumulate(map(len, texts))
    ranges = [PooledRows(end - len(text), end, skip) for end, text in zip(stops, texts, strict=True)]
    own = PooledVectors(staging, "texts", ranges, modes, sum(map(len, texts)))
    staging.commit()
    return own(torch.cat(texts))


def test_every_mode_has_its_reference() -> None:
    assert set(OURS.values()) == set(MODES)


@pytest.mark.parametrize("skip", [0, 2])
@pytest.mark.parametrize("modes", [*([mode] for mode in sentence.MODES), list(sentence.MODES), ["lasttoken", "mean"]])
def test_pooling_is_the_library_s_over_a_padded_batch(modes: list[str], skip: int) -> None:
    texts = states(3, 9, 5)
    right = sentence.pooling(*sentence.padded(texts), modes, skip)
    own = pooled(texts, [OURS[mode] for mode in modes], skip)
    assert torch.allclose(own, right, atol=1e-6)


def test_rows_between_sequences_do_not_count() -> None:
    texts = states(3, 9, 5)
    for mode in MODES:
        apart = torch.stack([pooled([text], [mode])[0] for text in (texts[0], texts[2])])
        batch = torch.cat([torch.full((2, 8), float("nan")), texts[0], texts[1], texts[2]])
        staging = StagingBuffer(HostBuffers(batch.device))
        some = PooledVectors(staging, "some", [PooledRows(2, 5, 0), PooledRows(14, 19, 0)], [mode], len(batch))
        staging.commit()
        assert torch.allclose(some(batch), apart, atol=1e-6)


def test_weights_of_long_texts_are_whole_in_bfloat16() -> None:
    (text,) = states(700, width=64)
    own = pooled([text.bfloat16()], ["weightedmean"]).float()
    right = sentence.pooling(*sentence.padded([text]), ["weightedmean"])[0]
    assert float((own - right).abs().max()) < 2e-3


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_a_dense_layer(activation: str) -> None:
    config, tensors = sentence.dense(8, 5, activation)
    x = torch.stack(states(4))[0]
    own = Dense(tensors["linear.weight"], tensors["linear.bias"], activation)(x)
    assert torch.allclose(own, sentence.apply_dense(config, tensors, x), atol=1e-6)


def test_steps_in_order_keep_their_widths() -> None:
    norm = nn.LayerNorm(5).requires_grad_(False)
    nn.init.normal_(norm.weight)
    (x,) = states(4)
    config, tensors = sentence.dense(8, 5, "Identity", bias=False)
    chain = Projection(
        (UnitLength(), Dense(tensors["linear.weight"], None), Norm(norm.weight.data, norm.bias.data)),
    )
    right = norm(sentence.apply_dense(config, tensors, torch.nn.functional.normalize(x)))
    assert torch.allclose(chain(x), right, atol=1e-6)
    assert (chain.width, chain.out, Projection().width, Projection().out) == (8, 5, None, None)
    assert chain.nbytes == sum(t.nbytes for t in (tensors["linear.weight"], norm.weight, norm.bias))
    moved = chain.to(torch.device("cpu"), torch.bfloat16)
    assert moved(x.bfloat16()).dtype == torch.bfloat16


# ---- of a backbone's folder


@pytest.fixture
def folder(base_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of the tiny BERT's folder."""
    for path in base_folder("bert").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize("new", [False, True])
def test_a_backbone_s_folder(folder: Path, bert: Backbone, new: bool) -> None:
    config, tensors = sentence.dense(64, 12)
    behind = [("Dense", config, tensors), ("Normalize", {}, {})]
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    sentence.write(folder, ("cls", "max"), behind, new=new, max_seq_length=16, prompts={"query": "w1 "})
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"model_max_length": 16}))
    backbone = tiny.load(folder)
    own = backbone.sentence_embedding
    assert (own.pooling, own.normalize, own.max_tokens, own.stated) == (("cls", "max"), True, 16, True)
    assert own.prompts == {"query": "w1 ", "document": ""}
    texts = ["w1 w2 w3", "w4"]
    hidden = tiny.ask(bert, None, texts)
    right = sentence.apply_dense(config, tensors, sentence.pooling(*sentence.padded(hidden), ("cls", "max")))
    assert tiny.difference(tiny.ask(backbone, None, texts, ("cls", "max")), list(right)) < tiny.CLOSE
    adapter = tiny.adapter(bert, "lora", 3)  # it says nothing itself
    hidden = tiny.ask(bert, adapter, texts)
    right = sentence.apply_dense(config, tensors, sentence.pooling(*sentence.padded(hidden), ("cls", "max")))
    assert tiny.difference(tiny.ask(backbone, adapter, texts, ("cls", "max")), list(right)) < tiny.CLOSE
    assert tiny.difference(tiny.ask(backbone, adapter, texts), hidden) < tiny.CLOSE  # every token: nothing behind it


def test_the_projection_follows_the_backbone_s_precision(folder: Path) -> None:
    config, tensors = sentence.dense(32, 12)
    sentence.write(folder, behind=[("Dense", config, tensors)])
    backbone = Backbone.load(str(folder), device="cpu", dtype="bfloat16")
    (vector,) = tiny.ask(backbone, None, ["w1 w2"], "mean")
    assert (vector.dtype, len(vector)) == (torch.bfloat16, 12)


def test_what_cannot_be_followed_does_not_keep_a_server_from_starting(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sentence.write(folder)
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "sentence_transformers.models.WeightedLayerPooling"
    (folder / "modules.json").write_text(json.dumps(modules))
    backbone = tiny.load(folder)
    assert "WeightedLayerPooling" in str(backbone.sentence_embedding.refused)
    assert "WeightedLayerPooling" in caplog.text
    with pytest.raises(ConfigurationError, match="WeightedLayerPooling"):
        backbone.sentence_embedding.check()


def test_a_model_in_a_folder_of_its_own(base_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """As the library wrote it once: modules.json stands around the model's folder."""
    inside = tmp_path / "0_Transformer"
    inside.mkdir()
    for path in base_folder("bert").iterdir():
        (inside / path.name).write_bytes(path.read_bytes())
    sentence.write(tmp_path, ("lasttoken",), max_seq_length=9)
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "sentence_bert_config.json").rename(inside / "sentence_bert_config.json")
    for given in (tmp_path, inside):
        own = tiny.load(given).sentence_embedding
        assert (own.pooling, own.max_tokens, own.refused) == ("last", 9, None)
    modules[0]["path"] = "1_Transformer"  # another one than this
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    assert not tiny.load(inside).sentence_embedding.stated


def test_a_folder_without_such_files_says_nothing(bert: Backbone) -> None:
    assert not bert.sentence_embedding.stated
    bert.sentence_embedding.check()
    assert str(bert.sentence_embedding) == "pooling mean; vectors not normalised"


def test_a_model_of_the_hub_is_asked_for_the_same_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config, tensors = sentence.dense(32, 6)
    sentence.write(tmp_path, ("weightedmean",), [("Dense", config, tensors)])
    requested = []

    def cached(source: str, name: str, **options: Any) -> str | None:
        assert source == "someone/something"
        requested.append(name)
        return str(tmp_path / name) if (tmp_path / name).is_file() else None

    monkeypatch.setattr(transformers_internals, "cached_file", cached)
    own = loading.sentence_embedding("someone/something", 32)
    assert (own.pooling, own.projection.out) == ("weightedmean", 6)
    assert {"1_Pooling/config.json", "2_Dense/model.safetensors", "sentence_bert_config.json"} <= set(requested)
    monkeypatch.setattr(transformers_internals, "cached_file", lambda *given, **options: None)
    assert not loading.sentence_embedding("someone/something", 32).stated


def test_paths_that_lead_elsewhere_are_not_fetched() -> None:
    names = sentence_files.named_files([{"path": "../x"}, {"path": "/etc"}, {"path": 5}, 7, {"path": "2_Dense"}])
    assert [name for name in names if "/" in name] == ["2_Dense/config.json", "2_Dense/model.safetensors"]
    assert sentence_files.named_files({"a": 1})[0] == sentence_files.SETTINGS
