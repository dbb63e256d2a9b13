"""What a form lets come next, as bits and one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.engine.structured_output import Grammars
from manyhats.errors import InvalidRequest

from tests import tiny


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    base: Path = tiny.write_byte_base(tmp_path_factory.mktemp("bytes"))
    return tiny.load(base)


@pytest.fixture
def grammars(backbone: Backbone) -> Grammars:
    return Grammars(backbone.tokenizer, int(backbone.config.vocab_size), min(backbone.eos_token_ids, default=None))


def test_bits_say_what_may_come_next(backbone: Backbone, grammars: Grammars) -> None:
    grammar = grammars.choice(["ab", "ac"])
    a, b = backbone.tokenizer.encode_bare("ab", 10).ids
    c = backbone.tokenizer.encode_bare("c", 10).ids[-1]
    vocabulary = int(backbone.config.vocab_size)
    for token, possible in ((a, {a}), (b, {b, c})):
        bits = grammar.bitmask()
        assert bits.dtype == torch.int32
        assert bits.shape == (-(-vocabulary // 32),)
        flags = np.unpackbits(bits.numpy().view(np.uint8), bitorder="little")
        texts = {backbone.tokenizer.loaded.decode([i]) for i in np.flatnonzero(flags).tolist()}
        assert possible <= set(np.flatnonzero(flags).tolist())
        assert texts <= {"a", "ab", "ac", "b", "c"}
        grammar.accept(token)


def test_a_copy_goes_its_own_way(backbone: Backbone, grammars: Grammars) -> None:
    first = grammars.choice(["ab", "ac"])
    second = first.copy()
    before = second.bitmask().clone()
    first.accept(backbone.tokenizer.encode_bare("a", 10).ids[0])
    assert not torch.equal(first.bitmask(), before)
    assert torch.equal(second.bitmask(), before)


def test_says_when_the_form_is_complete(backbone: Backbone, grammars: Grammars) -> None:
    grammar = grammars.choice(["ab"])
    a, b = backbone.tokenizer.encode_bare("ab", 10).ids
    assert not grammar.accept(a)
    assert grammar.accept(b)


def test_a_token_that_the_form_has_not_is_an_error(backbone: Backbone, grammars: Grammars) -> None:
    grammar = grammars.choice(["ab"])
    with pytest.raises(InvalidRequest, match="cannot be followed"):
        grammar.accept(backbone.tokenizer.encode_bare("b", 10).ids[0])
