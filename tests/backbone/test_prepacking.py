"""Prepacked weights give what the plain ones give."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from manyhats.backbone import prepacking
from manyhats.backbone.prepacked_weight import PrepackedWeight
from manyhats.backbone.prepacking import prepack

from tests import every, tiny

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")


@pytest.mark.parametrize("rows", [1, 3, 64, 200])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_plain_product(rows: int, bias: bool) -> None:
    weight, x = torch.randn(40, 24), torch.randn(rows, 24)
    own = torch.randn(40) if bias else None
    with torch.inference_mode():
        torch.testing.assert_close(PrepackedWeight(weight, 1)(x, own), torch.nn.functional.linear(x, weight, own))


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_every_method_gives_the_same(base_folder: Any, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    """With every layer prepacked from one row on, whatever is faster here."""
    plain, prepacked = tiny.load(base_folder(family)), tiny.load(base_folder(family))
    monkeypatch.setattr(prepacking, "_faster", lambda *_: True)
    assert prepack(prepacked.linear.values(), prepacked.joined) > 0
    parts = {site for joined in prepacked.joined for site in joined.sites}
    layers = [*prepacked.joined, *(site for site in prepacked.linear.values() if site not in parts)]
    assert all(layer.prepacked is not None and layer.prepacked.min_rows == 1 for layer in layers)
    assert all(site.prepacked is None for site in parts)
    texts = tiny.texts([1, 5, 12], seed=2)
    for adapter in every.adapters(plain).values():
        assert tiny.difference(tiny.ask(prepacked, adapter, texts), tiny.ask(plain, adapter, texts)) < tiny.CLOSE


def test_query_key_and_value_are_one_product(base_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny.load(base_folder("bert"))
    monkeypatch.setattr(prepacking, "_faster", lambda *_: True)
    prepack(backbone.linear.values(), backbone.joined)
    products: list[int] = []
    plain = PrepackedWeight.__call__

    def counted(self: PrepackedWeight, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        products.append(len(x))
        return plain(self, x, bias)

    monkeypatch.setattr(PrepackedWeight, "__call__", counted)
    for name, each in (("bare", 4), ("lora", 4), ("mask", 0)):  # a mask's own weights take all rows
        products.clear()
        adapter = None if name == "bare" else every.adapters(backbone)[name]
        tiny.ask(backbone, adapter, tiny.texts([5], seed=2))
        assert len([rows for rows in products if rows > 1]) == each * backbone.layers, name


def test_nothing_is_prepacked_where_memory_is_short(base_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny.load(base_folder("llama"))
    monkeypatch.setattr(prepacking, "free_host_memory", lambda: 100)
    assert prepack(backbone.linear.values()) == 0
    assert all(site.prepacked is None for site in backbone.linear.values())


def test_a_slower_layout_is_not_taken(base_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny.load(base_folder("llama"))
    monkeypatch.setattr(prepacking, "_faster", lambda *_: False)
    assert prepack(backbone.linear.values()) == 0
