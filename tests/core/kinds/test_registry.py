"""What is looked up over all kinds."""

from __future__ import annotations

import pytest
import torch
from manyhats.core.kinds.registry import HEADLESS, KINDS, check_head, headless_kinds, kinds_of_head
from manyhats.errors import AdapterMismatch
from manyhats.methods.heads import Head, KindName, Layer, Reads


def head(kind: KindName, outputs: int, reads: Reads = "first") -> Head:
    return Head(kind, reads, (Layer(torch.zeros(outputs, 32), None),))


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_found_by_its_own_name(name: KindName) -> None:
    kind = KINDS[name]
    assert kind.name == name
    assert (kind.head is None) == (name in HEADLESS)
    assert kind.parameters().truncate is None
    assert kind.generates <= kind.lm_head  # tokens come from the language-model head alone
    assert kind.bare_parameters <= set(kind.parameters.model_fields)


def test_one_output_over_a_text_may_be_of_several_kinds() -> None:
    for kind in ("classify", "regress"):
        assert kinds_of_head(head(kind, 1))[:2] == ("classify", "regress")
    assert kinds_of_head(head("classify", 3)) == ("classify",)
    assert kinds_of_head(head("tokens", 2, "tokens")) == ("tokens",)
    assert kinds_of_head(head("span", 2, "tokens")) == ("span",)


def test_what_a_backbone_gives_without_a_head(load_backbone) -> None:
    assert headless_kinds(load_backbone("bert")) == ("embed",)
    assert headless_kinds(load_backbone("llama")) == ("embed", "generate")


def test_a_span_has_a_start_and_an_end(load_backbone) -> None:
    bert = load_backbone("bert")
    check_head(head("span", 2, "tokens"), bert)
    with pytest.raises(AdapterMismatch, match=r"a head of kind 'span' has 2 outputs, start and end, not 3"):
        check_head(head("span", 3, "tokens"), bert)
