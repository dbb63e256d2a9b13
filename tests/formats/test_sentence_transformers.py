"""What sentence-transformers' files may say, and what is refused by name."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.errors import AdapterMismatch, InvalidRequest, ManyhatsError, UnsupportedFormat
from manyhats.formats.reader import read_adapter
from manyhats.formats.sentence_transformers import reader as sentence_transformers
from manyhats.formats.writer import write_adapter
from safetensors.torch import save_file

from tests import tiny
from tests.references import sentence


def write_adapter_in(folder: Path, backbone: Backbone, method: str = "lora", **options: Any) -> Path:
    write_adapter(tiny.adapter(backbone, method, 5, **options), folder, backbone)
    return folder


@pytest.fixture
def folder(bert: Backbone, tmp_path: Path) -> Path:
    """An adapter beside a Dense module."""
    write_adapter_in(tmp_path, bert)
    return sentence.write(tmp_path, behind=[("Dense", *sentence.dense(32, 6)), ("Normalize", {}, {})])


def edit(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    path = folder / name
    value = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(change(value)))


def setting(name: str, **changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder, name, lambda old: old | changes)


def module(index: int, **changes: Any) -> Callable[[Path], None]:
    def change(modules: list[Any]) -> list[Any]:
        modules[index] |= changes
        return modules

    return lambda folder: edit(folder, "modules.json", change)


def test_what_the_folder_says_is_in_the_adapter(folder: Path, bert: Backbone) -> None:
    assert sentence_transformers.is_folder(folder)
    adapter = read_adapter(folder, bert)
    assert (adapter.kind, adapter.head) == ("embed", None)
    assert adapter.projection is not None
    assert (adapter.projection.width, adapter.projection.out) == (32, 6)
    assert adapter.settings["pooling"] == "mean"
    assert adapter.settings["normalize"] is True
    assert adapter.nbytes == sum(part.nbytes for part in adapter.components) + 4 * (6 * 32 + 6)
    bound = adapter.bind(bert)
    assert bound.nbytes >= adapter.projection.nbytes


def test_a_folder_without_them_is_as_it_was(tmp_path: Path, bert: Backbone) -> None:
    write_adapter_in(tmp_path, bert)
    assert not sentence_transformers.is_folder(tmp_path)
    adapter = read_adapter(tmp_path, bert)
    assert adapter.projection is None
    assert not {"pooling", "normalize", "prompts", "overflow"} & adapter.settings.keys()


POOLING, DENSE, SETTINGS = "1_Pooling/config.json", "2_Dense/config.json", "config_sentence_transformers.json"
BERT = "sentence_bert_config.json"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        *[
            (module(1, type=f"sentence_transformers.models.{kind}"), kind)
            for kind in ("WordEmbeddings", "CNN", "LSTM", "BoW", "WordWeights", "WeightedLayerPooling", "Router")
        ],
        (module(0, type="sentence_transformers.models.CLIPModel"), "CLIPModel"),
        (module(0, type="sentence_transformers.sparse_encoder.models.MLMTransformer"), "MLMTransformer"),
        (module(1, type="someone.else.Pooling"), "someone.else.Pooling"),
        (module(2, type="os.system"), "os.system"),
        (module(3, type="sentence_transformers.models.Pooling"), "Pooling"),
        (module(1, path="../1_Pooling"), "../1_Pooling"),
        (module(1, path="/etc"), "/etc"),
        (module(1, path="9_Elsewhere"), "9_Elsewhere/config.json"),
        (module(0, path="0_Transformer"), "0_Transformer"),
        (module(0, type=5), "type"),
        (lambda folder: (folder / "modules.json").write_text("[]"), "modules.json"),
        (lambda folder: (folder / "modules.json").write_text('{"a": 1}'), "modules.json"),
        (lambda folder: (folder / "modules.json").write_text("["), "modules.json"),
        (lambda folder: (folder / POOLING).unlink(), POOLING),
        (lambda folder: (folder / POOLING).write_text("[]"), POOLING),
        (setting(POOLING, pooling_mode="attention"), "attention"),
        (setting(POOLING, pooling_mode=["mean", 3]), "3"),
        (setting(POOLING, pooling_mode=[]), "pooling modes"),
        (setting(POOLING, word_embedding_dimension=64), "64"),
        (setting(POOLING, include_prompt="no"), "include_prompt"),
        (setting(POOLING, pooling_mode_attention_tokens=True), "pooling_mode_attention_tokens"),
        (setting(POOLING, pooling_mode_cls_token=True, pooling_mode_mean_tokens=None), "pooling_mode_mean_tokens"),
        (setting(DENSE, activation_function="torch.nn.modules.activation.Softmax"), "Softmax"),
        (setting(DENSE, activation_function="torch.nn.modules.activation.PReLU"), "PReLU"),
        (setting(DENSE, activation_function="transformers.activations.GELUActivation"), "GELUActivation"),
        (setting(DENSE, activation_function="os.system"), "os.system"),
        (setting(DENSE, activation_function=None), "activation"),
        (setting(DENSE, in_features=31), "2_Dense/model.safetensors"),
        (setting(DENSE, out_features="6"), "2_Dense"),
        (setting(DENSE, bias=False), "linear.bias"),
        (setting(DENSE, module_input_name="token_embeddings"), "module_input_name"),
        (setting(DENSE, gate=True), "gate"),
        (setting("3_Normalize/config.json", module_output_name="x"), "module_output_name"),
        (setting(SETTINGS, model_type="SparseEncoder"), "SparseEncoder"),
        (setting(SETTINGS, truncate_dim=0), "truncate_dim"),
        (setting(SETTINGS, prompts={"a": 5}), "'a'"),
        (setting(SETTINGS, prompts=["a"]), "prompts"),
        (setting(SETTINGS, default_prompt_name="x"), "'x'"),
        (setting(BERT, max_seq_length=0), "max_seq_length"),
        (setting(BERT, max_seq_length="many"), "max_seq_length"),
        (setting(BERT, do_lower_case="yes"), "do_lower_case"),
        (setting(BERT, transformer_task="fill-mask"), "fill-mask"),
        (setting(BERT, modality_config={"message": {"method": "forward"}}), "modality_config"),
        (setting(BERT, model_args={"is_causal": True}), "is_causal"),
        (setting(BERT, query_expansion={"length": 32}), "query_expansion"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    folder: Path, bert: Backbone, change: Callable[[Path], Any], named: str
) -> None:
    change(folder)
    with pytest.raises((InvalidRequest, AdapterMismatch)) as caught:
        read_adapter(folder, bert)
    assert named in caught.value.message
    assert caught.value.param


@pytest.mark.parametrize(
    "change",
    [
        setting(POOLING, pooling_mode="mean", pooling_mode_mean_tokens=None),
        lambda folder: (folder / POOLING).write_text('{"word_embedding_dimension": 32}'),
        setting(BERT, model_args={"trust_remote_code": True, "torch_dtype": "bfloat16"}),
        setting(BERT, max_seq_length=None),
        setting(SETTINGS, __version__={"sentence_transformers": "5.7.0"}, similarity_fn_name="dot"),
        setting(SETTINGS, prompts={"query": None}, default_prompt_name="document"),
        lambda folder: (folder / SETTINGS).unlink(),
        lambda folder: (folder / BERT).rename(folder / "sentence_roberta_config.json"),
    ],
)
def test_what_changes_nothing_is_taken(folder: Path, bert: Backbone, change: Callable[[Path], Any]) -> None:
    change(folder)
    assert read_adapter(folder, bert).settings["pooling"] == "mean"


def test_a_pickle_of_a_dense_layer_is_refused(folder: Path, bert: Backbone) -> None:
    weights = folder / "2_Dense/model.safetensors"
    (folder / "2_Dense/pytorch_model.bin").write_bytes(pickle.dumps({}))
    weights.unlink()
    with pytest.raises(UnsupportedFormat, match=r"pytorch_model\.bin"):
        read_adapter(folder, bert)


@pytest.mark.parametrize(
    "tensors", [{}, {"linear.weight": torch.full((6, 32), torch.nan)}, {"weight": torch.ones(6, 32)}]
)
def test_weights_that_cannot_be(folder: Path, bert: Backbone, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, folder / "2_Dense/model.safetensors")
    with pytest.raises(InvalidRequest):
        read_adapter(folder, bert)


def test_weights_that_no_module_names_are_refused(folder: Path, bert: Backbone) -> None:
    (folder / "7_Other").mkdir()
    save_file({"a": torch.ones(1)}, folder / "7_Other/model.safetensors")
    with pytest.raises(InvalidRequest, match="7_Other"):
        read_adapter(folder, bert)


@pytest.mark.parametrize("name", [POOLING, SETTINGS, BERT])
def test_files_without_the_list_of_modules_are_refused(folder: Path, bert: Backbone, name: str, tmp_path: Path) -> None:
    place = tmp_path / "alone"
    place.mkdir()
    write_adapter_in(place, bert)
    (place / name).parent.mkdir(exist_ok=True)
    (place / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(InvalidRequest, match=r"no modules\.json"):
        read_adapter(place, bert)


def test_a_head_contradicts_it(tmp_path: Path, bert: Backbone) -> None:
    write_adapter_in(tmp_path, bert, kind="classify")
    sentence.write(tmp_path)
    with pytest.raises(AdapterMismatch, match="classify"):
        read_adapter(tmp_path, bert)


def test_a_decoder_s_adapter_embeds_by_its_files(tmp_path: Path, load_backbone: Callable[[str], Backbone]) -> None:
    decoder = load_backbone("llama")
    write_adapter_in(tmp_path, decoder, kind="generate")
    sentence.write(tmp_path, ("lasttoken",), width=decoder.output_width)
    adapter = read_adapter(tmp_path, decoder)
    assert adapter.kind == "embed"
    assert any("'generate'" in warning for warning in adapter.warnings)
    plain = tiny.adapter(decoder, "lora", 5, kind="generate")
    asked = sentence_transformers.read_onto(plain, tmp_path, decoder, "generate")
    assert (asked.kind, asked.projection, asked.settings) == ("generate", None, {})
    assert "not read" in asked.warnings[0]


def test_cls_without_the_prompt_is_refused(folder: Path, bert: Backbone) -> None:
    flags = dict.fromkeys(sentence.FLAGS.values(), False) | {"pooling_mode_cls_token": True}
    edit(folder, POOLING, lambda old: old | flags | {"include_prompt": False})
    read_adapter(folder, bert)  # without prompts it makes no difference
    edit(folder, SETTINGS, lambda old: old | {"prompts": {"query": "q: "}})
    with pytest.raises(ManyhatsError, match="include_prompt"):
        read_adapter(folder, bert)


def test_a_cross_encoder_is_none(tmp_path: Path, bert: Backbone) -> None:
    """Its adapter has a head of its own, and makes no vectors."""
    write_adapter_in(tmp_path, bert, kind="classify")
    modules = [{"idx": 0, "name": "0", "path": "", "type": sentence.NEW["Transformer"]}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / SETTINGS).write_text(json.dumps({"model_type": "CrossEncoder", "default_prompt_name": None}))
    assert not sentence_transformers.is_folder(tmp_path)
    assert read_adapter(tmp_path, bert).kind == "classify"
    (tmp_path / SETTINGS).write_text(json.dumps({"model_type": "CrossEncoder", "default_prompt_name": "query"}))
    with pytest.raises(AdapterMismatch, match="query"):
        read_adapter(tmp_path, bert)
