"""The packed pass gives what the unmodified model gives for a padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone, Text, pack
from manyhats.backbone.digest import digest, named_weights
from transformers import AutoModel, PreTrainedModel

from tests import tiny

LENGTHS = {
    "one word": [1],
    "one long text": [tiny.MAX_TOKENS - 2],
    "mixed": [3, 1, 30, 62, 8, 17, 2, 45],
    "equal": [9] * 7,
    "nearly equal": [10, 11, 12, 13, 14, 10],
    "empty text": [0, 5],
}


@torch.inference_mode()
def padded(model: PreTrainedModel, backbone: Backbone, batch: Sequence[Text]) -> list[torch.Tensor]:
    """The states of the real tokens, as the original computes them for one padded batch."""
    encoded = backbone.tokenizer.encode(batch, backbone.max_tokens)
    longest = max(len(e.ids) for e in encoded)
    pad = model.config.pad_token_id
    ids = torch.tensor([e.ids + [pad] * (longest - len(e.ids)) for e in encoded])
    inputs = {"input_ids": ids, "attention_mask": torch.tensor([_mask(len(e.ids), longest) for e in encoded])}
    if getattr(model.config, "type_vocab_size", 1) > 1:
        inputs["token_type_ids"] = torch.tensor([e.type_ids + [0] * (longest - len(e.ids)) for e in encoded])
    states = model(**inputs).last_hidden_state
    return [s[: len(e.ids)] for s, e in zip(states, encoded, strict=True)]


def _mask(length: int, longest: int) -> list[int]:
    return [1] * length + [0] * (longest - length)


@pytest.fixture
def original(backbone: Backbone) -> PreTrainedModel:
    """transformers' own model of the same checkpoint."""
    return AutoModel.from_pretrained(backbone.name, attn_implementation="sdpa").eval()


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_equals_the_padded_original(backbone: Backbone, original: PreTrainedModel, lengths: list[int]) -> None:
    batch = [Text(text) for text in tiny.texts(lengths, seed=len(lengths))]
    assert tiny.difference(tiny.ask(backbone, None, batch), padded(original, backbone, batch)) < tiny.CLOSE


def test_text_pairs_keep_their_token_types(backbone: Backbone, original: PreTrainedModel) -> None:
    firsts, seconds = tiny.texts([4, 20, 1, 12], seed=1), tiny.texts([7, 2, 1, 30], seed=2)
    batch = [Text(a, b) for a, b in zip(firsts, seconds, strict=True)]
    states = tiny.ask(backbone, None, batch)
    assert tiny.difference(states, padded(original, backbone, batch)) < tiny.CLOSE
    joined = tiny.ask(backbone, None, [Text(f"{a} {b}") for a, b in zip(firsts, seconds, strict=True)])
    assert all(len(pair) > len(one) for pair, one in zip(states, joined, strict=True))


def test_pooler_equals_the_original(load_backbone) -> None:
    for family in ("bert", "roberta", "xlm-roberta"):
        backbone = load_backbone(family)
        model = AutoModel.from_pretrained(backbone.name).eval()
        batch = tiny.texts([3, 11, 1], seed=4)
        states = tiny.ask(backbone, None, batch)
        with torch.inference_mode():
            pooled = backbone.pool(torch.stack([s[0] for s in states]))
            expected = [
                model(input_ids=torch.tensor([tiny.row(backbone, tiny.BARE, t).ids])).pooler_output[0] for t in batch
            ]
        assert tiny.difference(list(pooled), expected) < tiny.CLOSE


def test_weights_are_never_written_to(backbone: Backbone) -> None:
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    name = digest(named_weights(backbone.model, frozenset()))
    bound = [
        tiny.bound(backbone, tiny.adapter(backbone, m, i, kind="classify")) for i, m in enumerate(tiny.METHOD_NAMES)
    ]
    rows = [tiny.row(backbone, w, t) for w in [tiny.BARE, *bound] for t in tiny.texts([2, 9], seed=3)]
    first = tiny.run(backbone, rows)
    assert tiny.difference(first, tiny.run(backbone, rows)) == 0
    assert digest(named_weights(backbone.model, frozenset())) == name
    assert all(torch.equal(value, before[name]) for name, value in backbone.model.state_dict().items())
    assert not any(p.requires_grad for p in backbone.model.parameters())


def test_sequences_do_not_see_each_other(backbone: Backbone) -> None:
    """Whatever stands beside a text, its answer stays."""
    kept = tiny.texts([6], seed=5)
    answers = [
        tiny.ask(backbone, None, [*tiny.texts(before, seed=6), *kept, *tiny.texts(after, seed=7)])[len(before)]
        for before, after in (([], []), ([5], [7]), ([60, 6, 6], [1]), ([1] * 9, [6] * 9))
    ]
    assert max(tiny.difference([answers[0]], [other]) for other in answers[1:]) < tiny.CLOSE


def test_one_pass_at_a_time(bert: Backbone) -> None:
    class Greedy:
        def join(self, f, x, norm):
            return tiny.ask(bert, None, ["w1"])

    plan = pack(bert, [[2, 7, 3]], [[0, 0, 0]])
    from manyhats.backbone import Actors

    with pytest.raises(AssertionError, match="two forward passes"):
        bert.encode(plan, Actors(residual={"layers.0.ffn": Greedy().join}))
    tiny.ask(bert, None, ["w1"])  # and it works again


@pytest.mark.parametrize("family", tiny.DECODERS)
def test_no_decoder_looks_for_packed_sequences_or_pads(
    family: str, load_backbone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would ask the device how many there are, and wait for it."""

    def asked(*_: Any, **__: Any) -> None:
        raise AssertionError("the model looks at its positions or tokens")

    backbone = load_backbone(family)
    expected = tiny.ask(backbone, None, ["w1 w2", "w3"])
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", asked)
    monkeypatch.setattr(type(backbone.model), "warn_if_padding_and_no_attention_mask", _only_with_a_mask)
    assert tiny.difference(tiny.ask(backbone, None, ["w1 w2", "w3"]), expected) == 0


def _only_with_a_mask(model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> None:
    assert attention_mask is not None


@pytest.mark.real
def test_real_backbone_equals_the_padded_original(real_backbone: Backbone) -> None:
    from manyhats.backbone.loading import locate

    model = AutoModel.from_pretrained(locate(real_backbone.name), attn_implementation="sdpa").eval()
    batch = [
        Text("A man is eating food."),
        Text("No"),
        Text("The weather in the mountains changes quickly. " * 20),
        Text("Is it raining?", "It has not stopped since Tuesday, and the river is rising."),
        Text("Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich 🦊."),
        Text(""),
    ]
    assert tiny.difference(tiny.ask(real_backbone, None, batch), padded(model, real_backbone, batch)) < tiny.CLOSE
