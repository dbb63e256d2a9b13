"""Decode steps in graphs: the same texts as without, whoever comes and goes, and what makes a new graph."""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.backbone.cache import KeyValueCache
from manyhats.core.sampling_params import SamplingParams
from manyhats.core.sequence import Request
from manyhats.core.sequence import Sequence as Generated
from manyhats.engine.decode_graph import Capture, CudaCapture, DecodeGraphs
from manyhats.engine.kv_cache import BLOCK, KVCache
from manyhats.engine.runner import Runner
from manyhats.engine.scheduler import Scheduler
from manyhats.methods.bound_adapter import BARE, BoundAdapter
from manyhats.methods.slots import SlotTables

from tests import tiny
from tests.engine.recorded_graph import RecordedGraphs

pytest.importorskip("triton", reason="Triton is not installed; the extra `cuda` brings it")

from manyhats.kernels.cuda.backend import CudaKernels
from manyhats.kernels.cuda.launch import launch

from tests.kernels.cuda.interpreter import DEVICE, INTERPRETED
from tests.launches.passes import adapters_of


class Streams:
    """Texts under way on a tiny llama, in graphs that `capture` makes or without."""

    def __init__(self, backbone: Backbone, capture: Capture | None) -> None:
        self.backbone = backbone
        row = KeyValueCache.row_bytes(backbone.layers, backbone.kv_shape, backbone.dtype)
        cache = KVCache(backbone, 512 * row)
        self.scheduler = Scheduler(cache, max_num_batched_tokens=4096, max_num_seqs=64)
        self.runner = Runner(backbone, cache)
        captures = backbone.kept[SlotTables].kernels.captures
        self.capture = capture
        self.runner.graphs = None if capture is None else DecodeGraphs(backbone, captures, capture)

    @property
    def graphs(self) -> DecodeGraphs:
        assert self.runner.graphs is not None
        return self.runner.graphs

    def add(self, name: str, adapter: BoundAdapter, seed: int, new: int = 5, **sampling: Any) -> Generated:
        pick = random.Random(seed)
        prompt = [5 + pick.randrange(tiny.WORDS) for _ in range(2 + seed % 5)]
        sequence = Generated(adapter, prompt, SamplingParams(new, seed=seed, **sampling))
        self.scheduler.add(Request(name, [sequence], digest=name))
        return sequence

    @torch.inference_mode()
    def step(self) -> None:
        batch = self.scheduler.schedule()
        assert batch is not None
        for output in self.scheduler.update(batch, self.runner.execute(batch)):
            if output.error is not None:
                raise output.error

    def finish(self) -> None:
        while not self.scheduler.idle:
            self.step()


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of one layer, since the interpreter takes its time for each."""
    return tiny.write_base("llama", tmp_path_factory.mktemp("llama"), layers=1)


@pytest.fixture
def streams(one_layer: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Streams]:
    """With a backbone of its own: interpreted and recorded, or on a GPU in CUDA graphs."""
    monkeypatch.setattr("manyhats.kernels.cuda.row_attention._MOST_SPLITS", 1)  # each takes the interpreter's time

    def make(graphs: bool, folder: Path = one_layer) -> Streams:
        if not INTERPRETED:
            backbone = Backbone.load(str(folder), device=str(DEVICE), dtype="float32")
            backbone.kept[SlotTables] = SlotTables(CudaKernels())
            return Streams(backbone, CudaCapture(DEVICE) if graphs else None)
        recorded = RecordedGraphs(launch)
        backbone = tiny.load(folder)
        backbone.kept[SlotTables] = SlotTables(CudaKernels(recorded.launch))
        return Streams(backbone, recorded if graphs else None)

    return make


def texts(made: Sequence[Generated]) -> list[list[int]]:
    return [[token.token for token in sequence.output] for sequence in made]


IN_EVERY_RUN = ("bare", "lora", "mask")
SLOW = ("bottleneck", "ia3", "sparse", "parameters", "norms", "biases", "token_rows", "fusion", "average", "stack",
        "lora+ia3", "prefix", "prompt")  # fmt: skip


@pytest.mark.parametrize("name", [*IN_EVERY_RUN, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_method_writes_the_same_text(streams: Any, name: str) -> None:
    found = []
    for graphs in (False, True):
        one = streams(graphs)
        adapter = adapters_of(one.backbone)[name] if name != "bare" else None
        bound = BARE if adapter is None else adapter.bind(one.backbone)
        own = [one.add(name, bound, seed=1), one.add("base", BARE, seed=2), one.add(name, bound, seed=3)]
        one.finish()
        found.append(texts(own))
    assert found[0] == found[1]
    assert one.graphs.captured >= 1
    assert one.graphs.replayed == 4


def test_a_window_of_attention_moves_on_in_a_graph(streams: Any, tmp_path: Path) -> None:
    """Texts that outgrow it, and begin and end at different steps."""
    folder = tiny.write_base("mistral", tmp_path, layers=1)
    found = []
    for graphs in (False, True):
        one = streams(graphs, folder)
        lora = tiny.adapter(one.backbone, "lora", 1, rank=3).bind(one.backbone)
        own = [one.add("lora", lora, seed=i, new=9 - 2 * i) for i in (3, 1)]
        for _ in range(2):
            one.step()
        own.append(one.add("base", BARE, seed=4, new=6))
        one.finish()
        found.append(texts(own))
    assert found[0] == found[1]
    assert one.graphs.replayed > one.graphs.captured


def test_what_cannot_be_captured_runs_without(streams: Any, caplog: pytest.LogCaptureFixture) -> None:
    found = []
    for graphs in (False, True):
        one = streams(graphs)
        step_by_step = adapters_of(one.backbone)["invertible"].bind(one.backbone)
        own = [one.add("invertible", step_by_step, seed=1, new=3), one.add("base", BARE, seed=2, new=6)]
        one.finish()
        found.append(texts(own))
    assert found[0] == found[1]
    assert sum("without a CUDA graph" in record.getMessage() for record in caplog.records) == 1
    assert one.graphs.replayed == 3  # of the one that is left


@pytest.mark.slow
@pytest.mark.long
def test_a_mixture_whose_members_come_and_go_stays_in_one_graph(streams: Any) -> None:
    """A task that comes, another rank, a slot that changes hands, other rows and parameters: no new graph."""
    found = []
    for graphs in (False, True):
        one = streams(graphs)
        backbone = one.backbone
        tables = backbone.kept[SlotTables]
        bound = [tiny.adapter(backbone, "lora", i, rank=rank).bind(backbone) for i, rank in enumerate((2, 33, 5))]
        bound += [adapters_of(backbone)["ia3"].bind(backbone), BARE]
        own = [
            one.add(f"t{i}", bound[i % 5], seed=i, new=4 + i, temperature=0.9 * (i % 2), top_p=(1.0, 0.8)[i % 3 == 0])
            for i in range(6)
        ]
        for _ in range(4):
            one.step()
        captured = one.graphs.captured if graphs else 0
        late = tiny.adapter(backbone, "lora", 20, rank=17).bind(backbone)
        own += [one.add("late", late, seed=30 + i, new=5) for i in range(2)]
        for _ in range(3):
            one.step()
        gone = [sequence for sequence in own if len(sequence.output) == sequence.params.max_new_tokens]
        assert gone
        one.runner.drop_plan()
        tables.release(bound[0])
        other = tiny.adapter(backbone, "lora", 21, rank=9).bind(backbone)
        assert bound[0] is not other
        own += [one.add("other", other, seed=40 + i, new=4, temperature=1.1, top_k=5) for i in range(3)]
        one.finish()
        found.append(texts(own))
        if graphs:
            assert one.graphs.captured - captured <= 3  # of fewer rows, and of bare ones alone
            assert one.graphs.replayed >= 8
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.long
def test_a_larger_rank_than_any_before_makes_a_new_graph(streams: Any) -> None:
    one, plain = streams(True), streams(False)
    for rank, captured in ((4, 1), (60, 1), (100, 2)):
        outputs = []
        for side in (one, plain):
            adapter = tiny.adapter(side.backbone, "lora", rank, rank=rank).bind(side.backbone)
            own = side.add(f"rank {rank}", adapter, seed=rank, new=4)
            side.finish()
            outputs.append(texts([own]))
        assert outputs[0] == outputs[1]
        assert one.graphs.captured == captured


@pytest.mark.slow
@pytest.mark.long
def test_fewer_operations_use_the_graph_of_more_until_that_happens_often(streams: Any) -> None:
    one = streams(True)
    lora = tiny.adapter(one.backbone, "lora", 1).bind(one.backbone)
    ia3 = adapters_of(one.backbone)["ia3"].bind(one.backbone)
    one.add("lora", lora, seed=1, new=4)
    one.add("ia3", ia3, seed=2, new=4)
    one.finish()
    assert one.graphs.captured == 1
    for count, captured in ((10, 1), (10, 2)):
        own = [one.add("lora", lora, seed=5 + i, new=count) for i in range(2)]
        one.finish()
        assert one.graphs.captured == captured
        plain = streams(False)
        bound = tiny.adapter(plain.backbone, "lora", 1).bind(plain.backbone)
        others = [plain.add("lora", bound, seed=5 + i, new=count) for i in range(2)]
        plain.finish()
        assert texts(own) == texts(others)


def test_bare_steps_launch_what_a_backbone_without_adapters_does(streams: Any) -> None:
    one = streams(True)
    if not isinstance(one.capture, RecordedGraphs):
        pytest.skip("launches in a CUDA graph are not counted")
    one.add("base", BARE, seed=1)
    one.finish()
    bare = one.capture.launches
    for count in (1, 2):
        lora = tiny.adapter(one.backbone, "lora", count, rank=3).bind(one.backbone)
        one.add("lora", lora, seed=2)
        one.finish()
    both = one.capture.launches
    one.add("base", BARE, seed=3)
    one.finish()
    assert one.capture.launches == bare
    sites = len(one.backbone.linear) + 1
    assert bare < both <= bare + 3 * sites  # two launches a site, and the memory between them


def test_pairs_of_layers_that_read_the_same_rows_are_one_launch_in_a_graph_too(streams: Any) -> None:
    one = streams(True)
    if not isinstance(one.capture, RecordedGraphs):
        pytest.skip("launches in a CUDA graph are not counted")
    one.add("lora", tiny.adapter(one.backbone, "lora", 1, rank=3).bind(one.backbone), seed=2)
    one.finish()
    pairs = [name for name in one.capture.programs if name in ("shrink", "expand")]
    shared = one.backbone.shared
    assert len(shared) == 2  # query, key and value; gate and up
    alone = len(one.backbone.linear) - sum(map(len, shared))
    assert len(pairs) == 2 * (len(shared) + alone)


def test_a_graph_is_captured_again_while_the_one_before_lives(streams: Any) -> None:
    """Whose memory the new one gets."""
    one = streams(True)
    one.add("base", BARE, seed=1, new=3)
    one.finish()
    (graph,) = one.graphs._graphs.values()
    capture, seen = one.graphs._capture, []
    before = weakref.ref(getattr(graph.replay, "__self__", graph.replay))  # a CUDA graph, of which it is a method

    def noted(run: Any) -> Any:
        seen.append(before() is not None)
        return capture(run)

    one.graphs._capture = noted
    graph.state, one.graphs._current = "another", None
    one.add("base", BARE, seed=1, new=3)
    one.finish()
    assert one.graphs.captured == 2
    assert seen == [True]
    assert before() is None


def test_a_step_that_does_not_fit_runs_without(streams: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one = streams(True)
    rows = one.scheduler.cache.pool.count * BLOCK
    monkeypatch.setattr("manyhats.engine.decode_graph._EXTRA_WORDS", 10 - 2 * rows)
    own = one.add("base", BARE, seed=1)
    one.finish()
    assert len(own.output) == 5
    assert one.graphs.replayed == 0


def test_a_failing_replay_fails_nobody_else(streams: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails in a graph is halved, as any batch is."""
    one = streams(True)
    own = [one.add(f"t{i}", BARE, seed=i, temperature=0.7) for i in range(3)]
    for _ in range(3):
        one.step()
    calls = []

    def failing(*_: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("lost")
        return None

    monkeypatch.setattr(one.graphs, "logits", failing)
    one.finish()
    plain = streams(False)
    others = [plain.add(f"t{i}", BARE, seed=i, temperature=0.7) for i in range(3)]
    plain.finish()
    assert texts(own) == texts(others)


def test_a_graph_whose_answers_are_others_is_not_used(streams: Any, caplog: pytest.LogCaptureFixture) -> None:
    one = streams(True)
    capture = one.graphs._capture

    def wrong(run: Any) -> Any:
        result, replay = capture(run)
        return result, lambda: (replay(), result.add_(torch.arange(result.shape[1], device=result.device)))

    one.graphs._capture = wrong
    own = one.add("base", BARE, seed=1)
    one.finish()
    plain = streams(False)
    other = plain.add("base", BARE, seed=1)
    plain.finish()
    assert texts([own]) == texts([other])
    assert one.graphs.replayed == 0
    assert sum("its logits in the graph are others" in record.getMessage() for record in caplog.records) == 1


def test_what_is_known_of_steps_is_bounded(streams: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manyhats.engine.decode_graph._MAX_GRAPHS", 2)
    monkeypatch.setattr("manyhats.engine.decode_graph._MAX_KNOWN", 2)
    one = streams(True)

    def refuse(run: Any) -> Any:
        raise RuntimeError("no")

    one.graphs._capture = refuse
    for count in (1, 2, 3, 5):  # rows of four sizes
        for i in range(count):
            one.add("base", BARE, seed=i, new=2)
        one.finish()
        assert len(one.graphs._refused) <= 2
    assert not one.graphs._graphs
