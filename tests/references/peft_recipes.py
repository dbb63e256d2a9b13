"""Every adapter whose answers are stored: how PEFT makes it, on which model, and what it is asked.

The stored references in `tests/fixtures/peft` are made from these tables by its `make.py`. Nothing here imports PEFT:
its classes stand by their names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tests import families, tiny_models
from tests.parity.peft_cases import METHODS, NAMES, Names
from tests.references.peft_absent import ABSENT

SOURCE = Path(__file__).parents[1] / "fixtures" / "peft"
NEW = 12  # tokens of each written text


@dataclass(frozen=True)
class Recipe:
    """One adapter of PEFT and what it is asked. `config`: PEFT's class; None is the model itself.

    `task`: which of transformers' classes is wrapped. `typed`: PEFT's config is told the task. `again`: its saved files
    are loaded again, and this answers. `absent`: how the error begins that PEFT raises where it has no such adapter.
    """

    group: str
    name: str
    family: str
    config: str | None
    options: dict[str, Any]
    task: str
    seed: int
    labels: int = 0
    typed: bool = True
    half: bool = False
    again: bool = False
    texts: str = ""  # the group of texts; the recipe's own group where empty
    absent: str | None = None

    @property
    def base(self) -> str:
        """The name of the model underneath."""
        return f"{self.family}-masked" if self.task == "MASKED_LM" else self.family

    def __str__(self) -> str:
        return f"{self.group}-{self.family}-{self.name}"


@cache
def texts(group: str) -> list[Any]:
    """What a group asks: texts, or for "generation" the prompts' tokens. In masked ones {mask} stands for the mask."""
    return json.loads((SOURCE / "texts.json").read_text(encoding="utf-8"))[group]


def masked_texts(group: str, family: str) -> list[str]:
    """The group's texts with the family's own mask."""
    mask = tiny_models.tokenizer(family).mask_token
    return [text.replace("{mask}", mask) for text in texts(group)]


# ---- the matrix of methods and families


def matrix() -> Iterator[Recipe]:
    """`tests/parity/peft_cases.METHODS` on every family."""
    for name, plain in METHODS.items():
        for family in NAMES:
            if plain.only and family not in plain.only:
                continue
            method = plain.of(family)
            yield Recipe(
                "matrix",
                name,
                family,
                method.config,
                method.options(NAMES[family]),
                method.task,
                seed=len(family) * 7 + method.labels,
                labels=method.labels,
                absent=ABSENT.get(("matrix", name, family)),
            )


# ---- LoRA and prefix-tuning in all their options


@dataclass(frozen=True)
class Case:
    """One PEFT adapter. `task`: SEQ_CLS, TOKEN_CLS, FEATURE_EXTRACTION or None for a config without task_type."""

    family: str
    task: str | None
    config: str
    options: dict[str, Any] = field(default_factory=dict)
    labels: int = 3
    half: bool = False  # the file holds float16


def _lora(family: str, task: str | None = "SEQ_CLS", labels: int = 3, half: bool = False, **options: Any) -> Case:
    return Case(family, task, "LoraConfig", {"r": 4, "lora_alpha": 8} | options, labels, half)


def _prefix(family: str, task: str = "SEQ_CLS", labels: int = 3, **options: Any) -> Case:
    return Case(family, task, "PrefixTuningConfig", {"num_virtual_tokens": 5} | options, labels)


# In alphabetical order, which saving makes: several match a module, and the first counts.
_PATTERNS = {
    "use_rslora": True,
    "target_modules": ["query", "key", "value", "output.dense"],
    "rank_pattern": {"layer.1.*value": 8, r"layer\.0\..*": 6, "query": 2},
    "alpha_pattern": {"attention.output.dense": 2, "layer.0.*": 24, "layer.0.attention.self.query": 5, "value": 3},
}

_DISTILBERT_LINEAR = ["q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"]

ADAPTERS: dict[str, Case] = {
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


def adapters() -> Iterator[Recipe]:
    """The cases above."""
    for name, case in ADAPTERS.items():
        yield Recipe(
            "adapters",
            name,
            case.family,
            case.config,
            case.options,
            case.task or "SEQ_CLS",
            seed=len(name) * 7 + case.labels,
            labels=case.labels,
            typed=case.task is not None,
            half=case.half,
            again=case.half or "rank_pattern" in case.options,
        )


# ---- adapters that write

Made = tuple[str, dict[str, Any]]


def _causal(names: Names, **options: Any) -> Made:
    return "LoraConfig", {"r": 4, "target_modules": names.query_value} | options


WRITERS: dict[str, Callable[[Names], Made]] = {
    "lora": _causal,
    "dora": lambda n: _causal(n, use_dora=True),
    "lora-biases": lambda n: _causal(n, bias="all"),
    "lora-tokens": lambda n: _causal(n, trainable_token_indices={n.words: [7, 40, 12]}),
    "ia3": lambda n: ("IA3Config", {"target_modules": [*n.key_value, n.feed], "feedforward_modules": [n.feed]}),
    "ln": lambda n: ("LNTuningConfig", {"target_modules": n.norms}),
    "shira": lambda n: ("ShiraConfig", {"r": 2, "target_modules": n.query_value}),
    "prefix": lambda n: ("PrefixTuningConfig", {"num_virtual_tokens": 5}),
    "prefix-long": lambda n: ("PrefixTuningConfig", {"num_virtual_tokens": 19}),
    "prompt": lambda n: ("PromptTuningConfig", {"num_virtual_tokens": 5}),
    "p-tuning": lambda n: ("PromptEncoderConfig", {"num_virtual_tokens": 4, "encoder_hidden_size": 16}),
}


def generation() -> Iterator[Recipe]:
    """Each of them on every decoder, and the decoder itself."""
    for family in families.DECODERS:
        yield Recipe("generation", "base", family, None, {}, "CAUSAL_LM", seed=3)
        for name, make in WRITERS.items():
            config, options = make(NAMES[family])
            absent = ABSENT.get(("generation", name, family))
            yield Recipe("generation", name, family, config, options, "CAUSAL_LM", seed=3, absent=absent)


# ---- masked language-model heads

ENCODERS = (*families.ENCODERS, *families.SHARED_OR_LOCAL, *families.PADDED)
# The linear layers and norms of each family's own head, as PEFT's users would train them.
HEADS = {
    "bert": ["cls"],
    "roberta": ["lm_head"],
    "xlm-roberta": ["lm_head"],
    "electra": ["generator_predictions"],
    "electra-narrow": ["generator_predictions"],
    "distilbert": ["vocab_transform", "vocab_layer_norm"],
    "albert": ["predictions"],
    "modernbert": ["head"],
    "mpnet": ["lm_head"],
}
FILLERS: dict[str, Callable[[list[str], str], Made]] = {
    "lora": lambda names, family: ("LoraConfig", {"r": 4, "target_modules": names}),
    "lora-everywhere": lambda names, family: ("LoraConfig", {"r": 4, "target_modules": "all-linear"}),
    "lora-biases": lambda names, family: ("LoraConfig", {"r": 4, "target_modules": names, "bias": "all"}),
    "lora-head": lambda names, family: (
        "LoraConfig",
        {"r": 4, "target_modules": names, "modules_to_save": HEADS[family]},
    ),
    "ia3": lambda names, family: ("IA3Config", {"target_modules": names, "feedforward_modules": []}),
}


def masked() -> Iterator[Recipe]:
    """Each of them on every encoder, and one that is asked another text."""
    for family in ENCODERS:
        for name, make in FILLERS.items():
            # Reformer's head is one layer that is tied to the embeddings, beside a bias that its forward never reads.
            if family == "reformer" and name in ("lora-head", "lora-biases"):
                continue
            config, options = make(NAMES[family.removesuffix("-narrow")].query_value, family)
            yield Recipe("masked", name, family, config, options, "MASKED_LM", seed=3, typed=False)
    config, options = FILLERS["lora"](NAMES["bert"].query_value, "bert")
    yield Recipe("masked", "fill", "bert", config, options, "MASKED_LM", seed=3, typed=False, texts="fill")


# ---- methods that are supported as the difference that PEFT itself adds

DIFFERENCES: dict[str, Made] = {
    "loha": ("LoHaConfig", {"r": 4, "target_modules": ["query", "value"]}),
    "lokr": ("LoKrConfig", {"r": 4, "target_modules": ["query", "dense"]}),
    "oft": ("OFTConfig", {"oft_block_size": 8, "target_modules": ["key"]}),
    "hra": ("HRAConfig", {"r": 4, "target_modules": ["value"]}),
}


def differences() -> Iterator[Recipe]:
    """Each of them on two families."""
    for name, (config, options) in DIFFERENCES.items():
        for family in ("bert", "roberta"):
            yield Recipe("differences", name, family, config, options, "SEQ_CLS", seed=3, labels=4)


def every() -> list[Recipe]:
    """All of them."""
    return [*matrix(), *adapters(), *generation(), *masked(), *differences()]


# ---- merging: a function of PEFT's, and what it is given beside the tensors

WEIGHTS = [0.7, -0.4, 1.3]
MERGES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "linear": ("task_arithmetic", ()),
    "dare_linear-1.0": ("dare_linear", (1.0,)),
    **{
        f"ties-{density}-{sign}": ("ties", (density, sign))
        for density in (0.2, 0.5, 1.0)
        for sign in ("total", "frequency")
    },
}
