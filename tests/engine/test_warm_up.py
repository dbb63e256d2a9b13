"""After the warm-up no pass asks for a program that is not compiled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.engine.warm_up import warm_up
from manyhats.kernels.reference import Reference
from manyhats.methods.bound_adapter import BARE
from manyhats.methods.slots import SlotTables
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests import every, tiny
from tests.launches.passes import Decoding, encoder_pass

pytest.importorskip("triton", reason="Triton is not installed; the extra `cuda` brings it")

from tests.kernels.cuda import interpreter  # noqa: F401  # before the programs

from manyhats.kernels.cuda.backend import CudaKernels  # isort: skip

_WRITTEN = {"attend_rows": 5, "linear": 1, "masked_linear": 1, "merge_splits": 0, "rms_norm": 2}  # arguments


class Variants:
    """In the place of launches: notes what Triton would compile, and writes zeros."""

    def __init__(self) -> None:
        self.known: set[tuple[Any, ...]] = set()
        self.new: list[tuple[Any, ...]] = []

    def __call__(self, program: Any, grid: Any, *arguments: Any, **constants: Any) -> None:
        fixed = _given(program, "do_not_specialize")
        kinds = [_kind(one, name in fixed) for name, one in zip(program.arg_names, arguments, strict=False)]
        key = program.fn.__name__, *kinds, *sorted(constants.items())
        if key not in self.known:
            self.known.add(key)
            self.new.append(key)
        if program.fn.__name__ in _WRITTEN:
            arguments[_WRITTEN[program.fn.__name__]].zero_()


def _given(program: Any, name: str) -> frozenset[str]:
    """What the decorator was given, which the interpreter keeps elsewhere."""
    found = program.kwargs[name] if hasattr(program, "kwargs") else getattr(program, name)
    return frozenset(found or ())


def _kind(argument: Any, fixed: bool) -> Any:
    """As Triton tells arguments apart: a type, whether it is a multiple of 16, and whether it is 1."""
    match argument:
        case Tensor():
            return argument.dtype, not fixed and argument.data_ptr() % 16 == 0
        case int():
            return int, not fixed and argument % 16 == 0, not fixed and argument == 1
    return type(argument)


@pytest.fixture
def variants() -> Variants:
    return Variants()


def _backbone(folder: Path, variants: Variants) -> Backbone:
    backbone = tiny.load(folder)
    backbone.kept[SlotTables] = SlotTables(CudaKernels(variants))
    warm_up(backbone)
    assert variants.new
    variants.new.clear()
    return backbone


def _llama(folder: Path) -> Path:
    """A tiny one whose heads' sizes are multiples of 16, as those of real models are."""
    own = tiny.config("llama")
    own.num_attention_heads = own.num_key_value_heads = 2
    own.head_dim = 16
    model = AutoModelForCausalLM.from_config(own)
    tiny.randomise(model, 1)
    model.save_pretrained(folder)
    tiny.tokenizer("llama").save_pretrained(folder)
    return folder


METHODS = ("lora", "ia3", "bottleneck", "mask", "sparse", "parameters", "token_rows", "prefix", "lora+ia3")


def _adapters(backbone: Backbone) -> Iterator[Any]:
    made = every.adapters(backbone)
    yield from (made[name].bind(backbone) for name in METHODS)
    for rank in (1, 20, 70):
        yield tiny.adapter(backbone, "lora", rank, rank=rank).bind(backbone)
    yield BARE


def test_passes_of_an_encoder_find_all_programs(tmp_path: Path, variants: Variants) -> None:
    backbone = _backbone(tiny.write_base("bert", tmp_path), variants)
    adapters = list(_adapters(backbone))
    for count, sequences in ((1, 1), (1, 40), (2, 5), (5, 9), (len(adapters), 26), (len(adapters), 64)):
        encoder_pass(backbone, adapters[:count], sequences)()
    assert not variants.new


def test_steps_of_a_decoder_find_all_programs(tmp_path: Path, variants: Variants) -> None:
    backbone = _backbone(_llama(tmp_path), variants)
    adapters = list(_adapters(backbone))
    for count, streams in ((1, 1), (1, 30), (3, 3), (len(adapters), 20), (len(adapters), 33)):
        under_way = Decoding(backbone, adapters[:count], streams)
        for _ in range(2):
            under_way.step()
    assert not variants.new


def test_kernels_that_compile_nothing_are_not_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny.load(tiny.write_base("bert", tmp_path))
    backbone.kept[SlotTables] = SlotTables(Reference())
    monkeypatch.setattr(Reference, "low_rank", lambda *_: pytest.fail("called"))
    warm_up(backbone)


@pytest.mark.gpu
def test_programs_are_compiled_on_a_gpu_before_they_are_needed(tmp_path: Path) -> None:
    """Counted in Triton's own cache of what it has compiled."""
    from manyhats.kernels.cuda.programs import attention, low_rank, products, rows, sparse

    programs = (low_rank.shrink, low_rank.expand, products.linear, products.masked_linear, rows.scale_add, rows.lookup,
                sparse.sparse_add, attention.attend_rows, attention.merge_splits)  # fmt: skip

    def compiled() -> int:
        return sum(len(caches[0]) for program in programs for caches in program.device_caches.values())

    backbone = Backbone.load(str(_llama(tmp_path)), device="cuda", dtype="bfloat16")
    backbone.kept[SlotTables] = SlotTables(CudaKernels())
    warm_up(backbone)
    torch.cuda.synchronize()
    before = compiled()
    assert before
    adapters = list(_adapters(backbone))
    for count, streams in ((1, 1), (3, 3), (len(adapters), 20)):
        Decoding(backbone, adapters[:count], streams).step()
    assert compiled() == before
