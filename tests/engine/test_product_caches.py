"""How many compiled products of matrices the process keeps, seen by oneDNN's own log."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PRODUCTS = """
import torch
from manyhats.engine.product_caches import KEPT, bound_product_caches

bound_product_caches()
weight = torch.ops.mkldnn._reorder_linear_weight(torch.ones(32, 32, dtype=torch.bfloat16), 8)
for _ in range(2):
    for rows in range(1, 301):
        torch.ops.mkldnn._linear_pointwise(torch.ones(rows, 32, dtype=torch.bfloat16), weight, None, "none", [], "")
"""


def compiled(monkeypatch: pytest.MonkeyPatch, **variables: str) -> int:
    """How many products were compiled, of 300 shapes that each come twice."""
    for name, value in (variables | {"ONEDNN_VERBOSE": "2"}).items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-c", _PRODUCTS], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode or "create" not in done.stdout:
        pytest.skip("this build of torch has no products of oneDNN in bfloat16, or they say nothing")
    lines = [line for line in done.stdout.splitlines() if "primitive,create" in line and "cache_miss" in line]
    return sum("matmul" in line or "inner_product" in line for line in lines)


def test_few_products_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        monkeypatch.delenv(name, raising=False)
    assert compiled(monkeypatch) >= 550  # the first are gone when they come again


def test_what_the_environment_says_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiled(monkeypatch, ONEDNN_PRIMITIVE_CACHE_CAPACITY="1000", LRU_CACHE_CAPACITY="1000") <= 350
