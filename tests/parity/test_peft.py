"""LoRA and prefix-tuning: what PEFT itself computes for every text alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.formats import read_adapter
from manyhats.methods.adapter import Adapter
from peft import LoraConfig, PeftConfig, PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification

from tests import tiny

# PEFT 0.21 reads an attribute that transformers 5 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

TEXTS = tiny.texts([1, 6, 23, 40, 0, 11], seed=8)


@dataclass(frozen=True)
class Case:
    """One PEFT adapter. `task`: SEQ_CLS, TOKEN_CLS, FEATURE_EXTRACTION or None for a config without task_type."""

    family: str
    task: str | None
    config: type[PeftConfig]
    options: dict[str, Any] = field(default_factory=dict)
    labels: int = 3
    half: bool = False  # the file holds float16


def _lora(family: str, task: str | None = "SEQ_CLS", labels: int = 3, half: bool = False, **options: Any) -> Case:
    return Case(family, task, LoraConfig, {"r": 4, "lora_alpha": 8} | options, labels, half)


def _prefix(family: str, task: str = "SEQ_CLS", labels: int = 3, **options: Any) -> Case:
    return Case(family, task, PrefixTuningConfig, {"num_virtual_tokens": 5} | options, labels)


# In alphabetical order, which saving makes: several match a module, and the first counts.
_PATTERNS = {
    "use_rslora": True,
    "target_modules": ["query", "key", "value", "output.dense"],
    "rank_pattern": {"layer.1.*value": 8, r"layer\.0\..*": 6, "query": 2},
    "alpha_pattern": {"attention.output.dense": 2, "layer.0.*": 24, "layer.0.attention.self.query": 5, "value": 3},
}

_DISTILBERT_LINEAR = ["q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"]

CASES: dict[str, Case] = {
    "bert-lora-default": _lora("bert", lora_alpha=16),
    "bert-lora-five-labels": _lora("bert", labels=5, r=2),
    "bert-lora-all-linear": _lora("bert", target_modules="all-linear"),
    "bert-lora-patterns": _lora("bert", **_PATTERNS),
    "bert-lora-one-layer": _lora("bert", target_modules=["query", "dense"], layers_to_transform=[1]),
    "bert-lora-excluded": _lora("bert", target_modules=["query", "dense"], exclude_modules=["pooler.dense", "query"]),
    "bert-lora-regex": _lora("bert", target_modules=r".*layer\.1\..*(key|value)"),
    "bert-lora-tokens": _lora("bert", "TOKEN_CLS", labels=7),
    "bert-lora-regress": _lora("bert", labels=1),
    "bert-lora-bare": _lora("bert", "FEATURE_EXTRACTION", target_modules="all-linear"),
    "bert-lora-half": _lora("bert", half=True),
    "bert-lora-rank1": _lora("bert", r=1, lora_alpha=1),
    "bert-lora-no-task-type": _lora("bert", None, modules_to_save=["classifier"], target_modules=["query"]),
    "bert-lora-gaussian": _lora("bert", init_lora_weights="gaussian", lora_dropout=0.1),
    "bert-prefix": _prefix("bert"),
    "bert-prefix-projection": _prefix("bert", prefix_projection=True, encoder_hidden_size=24, num_virtual_tokens=9),
    "bert-prefix-tokens": _prefix("bert", "TOKEN_CLS", labels=4),
    "bert-prefix-bare": _prefix("bert", "FEATURE_EXTRACTION", num_virtual_tokens=1),
    "roberta-lora-default": _lora("roberta"),
    "roberta-lora-all-linear": _lora("roberta", labels=2, target_modules="all-linear"),
    "roberta-lora-patterns": _lora("roberta", **_PATTERNS),
    "roberta-lora-tokens": _lora("roberta", "TOKEN_CLS"),
    "roberta-lora-regress": _lora("roberta", labels=1),
    "roberta-prefix": _prefix("roberta"),
    "roberta-prefix-projection": _prefix("roberta", prefix_projection=True, encoder_hidden_size=16),
    "roberta-prefix-tokens": _prefix("roberta", "TOKEN_CLS", num_virtual_tokens=12),
    "xlm-roberta-lora": _lora("xlm-roberta", labels=4),
    "xlm-roberta-prefix": _prefix("xlm-roberta"),
    "electra-lora": _lora("electra", target_modules=["query", "value"]),
    "electra-lora-tokens": _lora("electra", "TOKEN_CLS", target_modules=["key", "dense"]),
    "electra-prefix": _prefix("electra"),
    "electra-narrow-lora-all-linear": _lora("electra-narrow", target_modules="all-linear"),
    "distilbert-lora": _lora("distilbert", target_modules=["q_lin", "v_lin"]),
    "distilbert-lora-six": _lora("distilbert", labels=2, target_modules=_DISTILBERT_LINEAR),
    "distilbert-lora-tokens": _lora("distilbert", "TOKEN_CLS", target_modules=["k_lin", "lin2"]),
    "distilbert-lora-bare": _lora("distilbert", "FEATURE_EXTRACTION", target_modules=["out_lin"]),
}

_CLASSES = {
    "SEQ_CLS": AutoModelForSequenceClassification,
    None: AutoModelForSequenceClassification,
    "TOKEN_CLS": AutoModelForTokenClassification,
    "FEATURE_EXTRACTION": AutoModel,
}


@dataclass(frozen=True)
class Answered:
    """A case as read by us, and PEFT's answers to `TEXTS`."""

    backbone: Backbone
    adapter: Adapter
    expected: list[Tensor]


def task_model(base: Path, task: str | None, labels: int) -> Any:
    """transformers' model for a task on a base."""
    options = {} if task == "FEATURE_EXTRACTION" else {"num_labels": labels}
    return _CLASSES[task].from_pretrained(base, **options)


@torch.inference_mode()
def answers(model: Any, backbone: Backbone, task: str | None, texts: list[str]) -> list[Tensor]:
    """A PEFT model's own outputs, every text alone."""
    outputs = []
    for text in texts:
        ids = torch.tensor([tiny.row(backbone, tiny.BARE, text).ids])
        out = model(input_ids=ids, attention_mask=torch.ones_like(ids))
        outputs.append(out.last_hidden_state[0] if task == "FEATURE_EXTRACTION" else out.logits[0])
    return outputs


@pytest.fixture(scope="module")
def answered(
    base_folder: Callable[[str], Path],
    load_backbone: Callable[[str], Backbone],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Answered]:
    root = tmp_path_factory.mktemp("peft")

    @cache
    def make(name: str) -> Answered:
        case, folder = CASES[name], root / name
        base, backbone = base_folder(case.family), load_backbone(case.family)
        config = case.config(**case.options, **({} if case.task is None else {"task_type": case.task}))
        model = get_peft_model(task_model(base, case.task, case.labels), config).eval()
        tiny.randomise(model, seed=len(name) * 7 + case.labels)
        model.save_pretrained(folder)
        if case.half:
            path = folder / "adapter_model.safetensors"
            save_file({n: t.half() for n, t in load_file(path).items()}, path, metadata={"format": "pt"})
        if case.half or "rank_pattern" in case.options:
            model = PeftModel.from_pretrained(task_model(base, case.task, case.labels), folder).eval()
        return Answered(backbone, read_adapter(folder, backbone), answers(model, backbone, case.task, TEXTS))

    return make


@pytest.mark.parametrize("name", CASES)
def test_equals_peft(answered: Callable[[str], Answered], name: str) -> None:
    one = answered(name)
    assert tiny.difference(tiny.alone(one.backbone, one.adapter, TEXTS), one.expected) < tiny.CLOSE
    assert tiny.difference(tiny.ask(one.backbone, one.adapter, TEXTS), one.expected) < tiny.CLOSE


@pytest.mark.parametrize("name", CASES)
def test_what_the_reader_says(answered: Callable[[str], Answered], name: str) -> None:
    case, adapter = CASES[name], answered(name).adapter
    assert adapter.method == ("lora" if case.config is LoraConfig else "prefix")
    if case.task == "FEATURE_EXTRACTION":
        assert adapter.kind == "embed"
        assert adapter.head is None
    else:
        assert adapter.kind == ("tokens" if case.task == "TOKEN_CLS" else "regress" if case.labels == 1 else "classify")
        assert adapter.head is not None
        assert adapter.head.num_labels == case.labels
    if adapter.method == "prefix":
        assert adapter.rank == case.options["num_virtual_tokens"]
    assert adapter.base is not None


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_all_in_one_batch(answered: Callable[[str], Answered], load_backbone: Any, family: str) -> None:
    """All of PEFT's adapters of a backbone, of any label count, with the bare backbone and the other methods."""
    backbone = load_backbone(family)
    rows, expected = [], []
    for name, case in CASES.items():
        if case.family == family:
            one = answered(name)
            worn = tiny.bound(backbone, one.adapter)
            rows += [tiny.row(backbone, worn, text) for text in TEXTS[:4]]
            expected += one.expected[:4]
    others = [
        None,
        tiny.adapter(backbone, "mask", 1, kind="classify", labels=2),
        tiny.adapter(backbone, "mask", 2, kind="tokens", only="layer.1"),
        tiny.adapter(backbone, "bottleneck", 3, kind="regress", labels=1),
        tiny.adapter(backbone, "bottleneck", 4, original_ln_before=True),
        tiny.adapter(backbone, "bottleneck", 5, is_parallel=True, scaling=4.0),
        tiny.adapter(backbone, "prefix", 6, shift_positions=False),
    ]
    for i, other in enumerate(others):
        worn = tiny.bound(backbone, other)
        batch = tiny.texts([2, 30, 9], seed=i)
        rows += [tiny.row(backbone, worn, text) for text in batch]
        expected += tiny.alone(backbone, worn, batch)
    for seed in range(3):
        order = list(range(len(rows)))
        random.Random(seed).shuffle(order)
        outputs = tiny.run(backbone, [rows[i] for i in order])
        assert tiny.difference(outputs, [expected[i] for i in order]) < tiny.CLOSE
