"""Labels of tokens, and the entities that they make."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from manyhats.backbone import Encoded, Text
from manyhats.core.kinds.base import Rendered
from manyhats.core.kinds.tokens import Tokens, TokensParameters
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.pipelines.token_classification import AggregationStrategy, TokenClassificationPipeline

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC"]
PIECES = ["[UNK]", "[CLS]", "[SEP]", "pa", "##ra", "##si", "lo", "##mo", "x"]
WORDS = ["pa", "para", "parasi", "lo", "lomo", "lomosi", "x"]


@pytest.fixture(scope="module")
def pieces() -> PreTrainedTokenizerFast:
    """A tokenizer that cuts words into pieces."""
    raw = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


def encoded_by(tokenizer: PreTrainedTokenizerFast, text: str, pair: str | None = None) -> Encoded:
    e = tokenizer.backend_tokenizer.encode(text, pair)
    return Encoded(e.ids, e.type_ids, e, len(e))


def tokens(encoded: Encoded, values: np.ndarray, text: str, pair: str | None = None, /, **given_parameters):
    rendered = Rendered(Text(text, pair), encoded, LABELS, None)
    return Tokens().render(values, TokensParameters(**given_parameters), rendered)


@given(words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=8), data=st.data())
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("aggregation", ["none", "simple", "first", "average", "max"])
def test_entities_are_those_of_transformers(pieces, aggregation, words, data):
    text = " ".join(words)
    encoded = encoded_by(pieces, text)
    best = data.draw(st.lists(st.integers(0, 5), min_size=len(encoded.ids), max_size=len(encoded.ids)))
    seed = data.draw(st.integers(0, 1000))
    logits = np.random.default_rng(seed).normal(size=(len(best), len(LABELS))).astype(np.float32)
    logits[range(len(best)), best] += 2
    theirs = object.__new__(TokenClassificationPipeline)
    theirs.tokenizer = pieces
    theirs.model = SimpleNamespace(config=SimpleNamespace(id2label=dict(enumerate(LABELS))))
    outputs = {
        "logits": torch.tensor(logits)[None],
        "sentence": text,
        "input_ids": torch.tensor([encoded.ids]),
        "offset_mapping": torch.tensor([encoded.offsets]),
        "special_tokens_mask": torch.tensor([encoded.special]),
    }
    expected = theirs.postprocess([outputs], AggregationStrategy(aggregation))
    got = tokens(encoded, logits, text, aggregation=aggregation)["entities"]

    def name(entity: dict) -> str:
        label = entity.get("entity_group") or entity["entity"]
        return label[2:] if label[:2] in ("B-", "I-") else label

    assert [(e["entity_group"], e["start"], e["end"]) for e in got] == [
        (name(e), e["start"], e["end"]) for e in expected
    ]
    assert [e["score"] for e in got] == pytest.approx([float(e["score"]) for e in expected], abs=1e-5)
    assert all(e["word"] == text[e["start"] : e["end"]] for e in got)


# para lomo x: five tokens between the special ones
@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("none", [("PER", "pa"), ("LOC", "##ra"), ("PER", "lo"), ("PER", "##mo")]),
        ("simple", [("PER", "pa"), ("LOC", "##ra"), ("PER", "lomo")]),
        ("first", [("PER", "para lomo")]),
        ("average", [("LOC", "para"), ("PER", "lomo")]),
        ("max", [("LOC", "para"), ("PER", "lomo")]),
        ("word", [("PER", "para"), ("PER", "lomo")]),
    ],
)
def test_strategies_by_hand(pieces, aggregation, expected):
    encoded = encoded_by(pieces, "para lomo x")
    logits = np.zeros((7, len(LABELS)), np.float32)
    for i, (label, size) in enumerate(
        [("MISC", 9), ("B-PER", 2), ("B-LOC", 5), ("I-PER", 4), ("I-PER", 3), ("O", 5), ("MISC", 9)]
    ):
        logits[i, LABELS.index(label)] = size
    answer = tokens(encoded, logits, "para lomo x", aggregation=aggregation)
    assert [(e["entity_group"], e["word"]) for e in answer["entities"]] == [
        (group, word.removeprefix("##")) for group, word in expected
    ]
    assert [t["text"] for t in answer["tokens"]] == ["pa", "ra", "lo", "mo", "x"]
    assert [t["label"] for t in answer["tokens"]] == ["B-PER", "B-LOC", "I-PER", "I-PER", "O"]
    assert [(t["start"], t["end"]) for t in answer["tokens"]] == [(0, 2), (2, 4), (5, 7), (7, 9), (10, 11)]


def test_entities_do_not_run_from_the_text_into_its_pair(pieces):
    encoded = encoded_by(pieces, "pa x", "x lo")
    logits = np.zeros((len(encoded.ids), len(LABELS)), np.float32)
    logits[:, LABELS.index("I-PER")] = 3
    answer = tokens(encoded, logits, "pa x", "x lo")
    assert [(e["word"], e["start"], e["end"]) for e in answer["entities"]] == [("pa x", 0, 4), ("x lo", 0, 4)]
    first = tokens(encoded, logits, "pa x", "x lo", aggregation="first")
    assert [(e["word"], e["start"], e["end"]) for e in first["entities"]] == [("pa x", 0, 4), ("x lo", 0, 4)]


def test_logits_of_tokens_include_the_special_ones(pieces):
    encoded = encoded_by(pieces, "para x")
    logits = np.random.default_rng(0).normal(size=(5, len(LABELS))).astype(np.float32)
    answer = tokens(encoded, logits, "para x", logits=True)
    assert answer["logits"] == logits.tolist()
    assert len(answer["tokens"]) == 3
    assert "logits" not in tokens(encoded, logits, "para x")
