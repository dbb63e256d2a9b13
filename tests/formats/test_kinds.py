"""What an adapter is for, where its config names no task_type."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from manyhats.backbone import Backbone
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.formats.reader import read_adapter
from manyhats.formats.writer import write_adapter
from manyhats.methods.heads import KindName
from safetensors.torch import load_file, save_file

from tests import tiny

Write = Callable[..., Path]
Load = Callable[[str], Backbone]


@pytest.fixture
def untyped(load_backbone: Load, tmp_path: Path) -> Write:
    """Writes an adapter as transformers' own `add_adapter` does: with no word of what it is for."""

    def write(family: str, kind: KindName, labels: int = 3, *, bare: bool = False, **fields: Any) -> Path:
        backbone = load_backbone(family)
        folder = tmp_path / "adapter"
        folder.mkdir(exist_ok=True)
        only = "lm_head" if fields.pop("at_head", False) else "0"  # the first layer's
        write_adapter(tiny.adapter(backbone, "lora", 3, kind=kind, labels=labels, only=only), folder, backbone)
        (folder / "manyhats.json").unlink()
        config = folder / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"task_type": None} | fields))
        weights = folder / "adapter_model.safetensors"
        if kind in ("embed", "generate"):
            wrapper = "base_model.model."
            own = wrapper if bare else f"{wrapper}{backbone.prefix}."
            tensors = {
                own + name.removeprefix(wrapper).removeprefix(f"{backbone.prefix}."): tensor.clone()
                for name, tensor in load_file(weights).items()
            }
            save_file(tensors, weights)
        return folder

    return write


@pytest.mark.parametrize(
    ("family", "kind", "labels", "found"),
    [
        ("llama", "generate", 0, "generate"),
        ("gpt2", "generate", 0, "generate"),
        ("bert", "regress", 1, "regress"),  # one output for each token would say nothing
        ("roberta", "classify", 3, "classify"),  # its head over a text has a layer more
        ("roberta", "tokens", 3, "tokens"),
        ("distilbert", "classify", 3, "classify"),
        ("distilbert", "tokens", 3, "tokens"),
        ("bert", "span", 2, "span"),
    ],
)
def test_the_head_or_the_backbone_tells(
    untyped: Write, load_backbone: Load, family: str, kind: KindName, labels: int, found: KindName
) -> None:
    folder = untyped(family, kind, labels)
    adapter = read_adapter(folder, load_backbone(family))
    assert adapter.kind == found
    assert kind == "span" or any("no task_type" in warning for warning in adapter.warnings)


@pytest.mark.parametrize(
    ("family", "kind", "bare", "said"),
    [
        ("bert", "embed", False, "embed"),
        ("bert", "embed", True, "embed"),
        ("roberta", "embed", False, "embed"),
        ("llama", "generate", True, "embed or generate"),  # trained as a model without a head
        ("bert", "classify", False, "classify or tokens"),
        ("llama", "classify", False, "classify or tokens"),
    ],
)
def test_where_nothing_tells_the_kind_must_be_said(
    untyped: Write, load_backbone: Load, family: str, kind: KindName, bare: bool, said: str
) -> None:
    folder, backbone = untyped(family, kind, bare=bare), load_backbone(family)
    with pytest.raises(AdapterMismatch, match=f"`kind` in the part `task`: {said}"):
        read_adapter(folder, backbone)
    for word in said.split(" or "):
        assert read_adapter(folder, backbone, kind=word).kind == word  # type: ignore[arg-type]


def test_an_adapter_of_the_language_models_head_generates(untyped: Write, load_backbone: Load) -> None:
    assert read_adapter(untyped("llama", "generate", at_head=True), load_backbone("llama")).kind == "generate"


def test_a_kind_beside_the_files_is_taken(untyped: Write, bert: Backbone) -> None:
    folder = untyped("bert", "embed")
    (folder / "manyhats.json").write_text(json.dumps({"format": "manyhats-task/1", "task": {"kind": "embed"}}))
    assert read_adapter(folder, bert).kind == "embed"
    (folder / "manyhats.json").write_text(json.dumps({"format": "manyhats-task/1", "task": {"kind": "guess"}}))
    with pytest.raises(InvalidRequest, match="'guess'; these are: classify"):
        read_adapter(folder, bert)
    (folder / "manyhats.json").write_text(json.dumps({"format": "manyhats-task/1", "task": {"kind": ["embed"]}}))
    with pytest.raises(InvalidRequest, match="these are: classify"):
        read_adapter(folder, bert)


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [("BertForTokenClassification", "tokens"), ("BertForSequenceClassification", "classify")],
)
def test_a_models_class_tells_two_heads_apart(
    untyped: Write, bert: Backbone, architecture: str, kind: KindName
) -> None:
    folder = untyped("bert", "classify")
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    adapter = read_adapter(folder, bert)
    assert adapter.kind == kind
    assert adapter.head is not None
    assert adapter.head.reads == ("tokens" if kind == "tokens" else "pooler")


@pytest.mark.parametrize(
    ("model_class", "kind", "read"),
    [
        ("BertModel", "embed", "embed"),
        ("BertForSequenceClassification", "classify", "classify"),
        ("BertForTokenClassification", "classify", "tokens"),
        ("LlamaForCausalLM", "generate", "generate"),
        ("LlamaModel", "generate", "embed"),
    ],
)
def test_peft_names_the_class_that_it_wrapped(
    untyped: Write, load_backbone: Load, model_class: str, kind: KindName, read: KindName
) -> None:
    family = "llama" if model_class.startswith("Llama") else "bert"
    folder = untyped(family, kind, auto_mapping={"base_model_class": model_class, "parent_library": "transformers"})
    assert read_adapter(folder, load_backbone(family)).kind == read


def test_a_class_that_is_not_known_is_named(untyped: Write, bert: Backbone) -> None:
    mapping = {"base_model_class": "BertForMultipleChoice", "parent_library": "transformers"}
    folder = untyped("bert", "classify", 1, auto_mapping=mapping)
    with pytest.raises(AdapterMismatch, match="BertForMultipleChoice"):
        read_adapter(folder, bert)
    assert read_adapter(folder, bert, kind="classify").kind == "classify"


def test_a_kind_that_the_head_does_not_allow_changes_nothing(untyped: Write, bert: Backbone) -> None:
    folder = untyped("bert", "classify", task_type="SEQ_CLS")
    for kind in ("tokens", "regress", "embed", "generate"):
        adapter = read_adapter(folder, bert, kind=kind)  # type: ignore[arg-type]
        assert (adapter.kind, adapter.kinds(bert)) == ("classify", ("classify",))


def test_one_output_is_a_value_or_a_label(untyped: Write, bert: Backbone) -> None:
    folder = untyped("bert", "regress", 1, task_type="SEQ_CLS")
    assert read_adapter(folder, bert).kind == "regress"
    adapter = read_adapter(folder, bert, kind="classify")
    assert adapter.kind == "classify"
    assert adapter.head is not None
    assert adapter.head.kind == "classify"
    assert set(adapter.kinds(bert)) == {"classify", "regress", "rerank"}


def test_without_a_head_all_that_the_backbone_does(untyped: Write, load_backbone: Load) -> None:
    folder = untyped("llama", "generate", task_type="CAUSAL_LM")
    adapter = read_adapter(folder, load_backbone("llama"))
    assert set(adapter.kinds(load_backbone("llama"))) == {"generate", "embed"}
    assert adapter.as_kind("embed", load_backbone("llama")).kind == "embed"


@pytest.mark.parametrize("kind", ["guess", ["classify"], 3])
def test_a_kind_that_is_none_is_refused_by_name(untyped: Write, bert: Backbone, kind: Any) -> None:
    folder = untyped("bert", "classify")
    (folder / "manyhats.json").write_text(json.dumps({"format": "manyhats-task/1", "task": {"kind": kind}}))
    with pytest.raises(InvalidRequest, match=r"task\.kind is .*; these are: classify, tokens, "):
        read_adapter(folder, bert)
