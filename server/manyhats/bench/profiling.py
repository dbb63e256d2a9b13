"""Where a pass's time goes: by site and method, and as a trace."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from manyhats.backbone import Actors, Backbone, PackedBatch
from manyhats.bench.engine_work import BenchTask, new_engine, one_pass
from manyhats.bench.tasks import StoredTask, repeated
from manyhats.runtime import Runtime

_BATCH = 64
_ROUNDS = 5
_NUMBER = re.compile(r"\.\d+(?=\.)")
_CATEGORIES = ("linear", "embedding", "norm", "residual", "key_value", "states")

Seconds = dict[str, float]  # by site, those of all layers together


class SiteTimer:
    """The seconds of all actors by site, without those of the backbone's own linear layers in them."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._device = backbone.device
        self.operations: Seconds = defaultdict(float)
        self.layers = 0.0  # of the backbone's linear layers that an actor called
        self.passes = 0.0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Times every pass inside."""
        encode = self._backbone.encode
        products = {site: site.product for site in self._backbone.linear.values()}

        def timed_encode(batch: PackedBatch, actors: Actors) -> Tensor:
            begin = self._now()
            states = encode(batch, self._timed_actors(actors))
            self.passes += self._now() - begin
            return states

        self._backbone.encode = timed_encode  # type: ignore[method-assign, assignment]
        for site, product in products.items():
            site.product = self._timed_product(product)  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            del self._backbone.encode  # back to the class's method
            for site in products:
                del site.product

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _timed_product(self, product: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def run(x: Tensor) -> Tensor:
            begin = self._now()
            y = product(x)
            self.layers += self._now() - begin
            return y

        return run

    def _timed_actors(self, actors: Actors) -> Actors:
        timed: dict[str, Any] = {name: self._timed(name, getattr(actors, name)) for name in _CATEGORIES}
        return replace(actors, **timed)

    def _timed(self, category: str, actors: Mapping[Any, Callable[..., Any]]) -> dict[Any, Callable[..., Any]]:
        def around(site: Any, actor: Callable[..., Any]) -> Callable[..., Any]:
            name = f"prefix of layer {site}" if category == "key_value" else str(site)
            name = _NUMBER.sub(".*", re.sub(r"\d+$", "*", name))

            def run(*given: Any) -> Any:
                before, begin = self.layers, self._now()
                result = actor(*given)
                self.operations[name] += self._now() - begin - (self.layers - before)
                return result

            return run

        return {site: around(site, actor) for site, actor in actors.items()}


def profile(
    runtime: Runtime, tasks: Sequence[StoredTask], texts: Sequence[str], folder: Path, console: Console
) -> None:
    """Prints the milliseconds of one pass over 64 inputs by site and method, and writes a trace of a pass over all
    tasks, `trace.json`, to a folder, which is made."""
    own = [task for task in tasks if task.measured]
    if not own:
        console.print("no profile: no task is answered by one pass over a text")
        return
    backbone = runtime.backbone
    inputs = backbone.tokenizer.encode(repeated(texts, _BATCH), backbone.max_tokens)
    engine = new_engine(backbone)
    methods: dict[str, list[BenchTask]] = {}
    for task in own:
        methods.setdefault(task.version.info.method, []).append(BenchTask(task.name, task.adapter))
    found: dict[str, SiteTimer] = {}
    with torch.inference_mode():
        for name, of_method in methods.items():
            run = one_pass(engine, inputs, of_method)
            run()
            found[name] = SiteTimer(backbone)
            with found[name].watching():
                for _ in range(_ROUNDS):
                    run()
        folder.mkdir(parents=True, exist_ok=True)
        everything = one_pass(engine, inputs, [task for group in methods.values() for task in group])
        activities = [torch.profiler.ProfilerActivity.CPU]
        if backbone.device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=activities) as trace:
            everything()
    trace.export_chrome_trace(str(folder / "trace.json"))
    console.print(_table(found))
    console.print(f"trace: {folder / 'trace.json'} (chrome://tracing, ui.perfetto.dev)")


def _table(found: Mapping[str, SiteTimer]) -> Table:
    """Milliseconds a pass: a row for each site with operations, those of all layers together."""
    title = f"operations of adapters, ms a pass of {_BATCH} inputs"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("site (all layers)")
    for method in found:
        table.add_column(method, justify="right")

    def row(name: str, values: Sequence[float]) -> None:
        table.add_row(name, *(f"{value * 1e3 / _ROUNDS:.2f}" if value else "" for value in values))

    for site in sorted({site for timer in found.values() for site in timer.operations}):
        row(site, [timer.operations.get(site, 0.0) for timer in found.values()])
    row("all operations", [sum(timer.operations.values()) for timer in found.values()])
    row("the whole pass", [timer.passes for timer in found.values()])
    return table
