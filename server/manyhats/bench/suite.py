"""The figures of a backbone and the tasks of a store: in the engine, in memory, and over HTTP."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from manyhats.bench.engine_work import BenchTask, generation, new_engine, one_pass
from manyhats.bench.report import Figure
from manyhats.bench.server import BenchServer, Question
from manyhats.bench.tasks import StoredTask, repeated
from manyhats.bench.timing import Times, alternate
from manyhats.methods.bound_adapter import BARE
from manyhats.registry.names import BASE
from manyhats.runtime import Runtime

BATCH = 64  # inputs of a batch, and of one call
STREAMS = 32  # texts that are generated at once
PROMPT = 16  # tokens of a prompt, at most
NEW = 24  # tokens that are generated after each
_TRUNCATE = {"truncate": True}
_BARE = BenchTask(BASE, BARE)


@dataclass(frozen=True, slots=True)
class Effort:
    """How long is measured. `rounds` of alternating sides; `seconds` over HTTP for each load; `connections`."""

    rounds: int = 7
    seconds: float = 8.0
    connections: int = 64


def engine_figures(
    runtime: Runtime, tasks: Sequence[StoredTask], texts: Sequence[str], effort: Effort
) -> tuple[list[Figure], dict[str, float]]:
    """What tasks cost beyond the bare backbone, by number and by method; and the engine's own rates.

    The rates, over as many tasks as a batch holds: `inputs` a second in batches, those of `one task`, and `tokens`.
    """
    figures: list[Figure] = []
    rates: dict[str, float] = {}
    measured = [task for task in tasks if task.measured]
    generating = [task for task in tasks if task.generates]
    with torch.inference_mode():
        for own, measure in ((measured, _one_pass_figures), (generating, _generation_figures)):
            if own:
                more, found = measure(runtime, own, texts, effort)
                figures += more
                rates |= found
    return figures, rates


def _one_pass_figures(
    runtime: Runtime, tasks: Sequence[StoredTask], texts: Sequence[str], effort: Effort
) -> tuple[list[Figure], dict[str, float]]:
    backbone = runtime.backbone
    inputs = backbone.tokenizer.encode(repeated(texts, BATCH), backbone.max_tokens)
    engine = new_engine(backbone)
    counted = _by_count(tasks, BATCH)
    methods = _by_method(tasks)
    alone = backbone.tokenizer.encode(repeated(texts, 1), backbone.max_tokens)
    chosen = {"bare": [_BARE], **counted, **(methods if len(methods) > 1 else {})}
    sides: dict[str, Callable[[], None]] = {name: one_pass(engine, inputs, own) for name, own in chosen.items()}
    if backbone.original is not None:
        sides["model"] = _plain_model(runtime, alone[0].ids)
        sides["one"] = one_pass(engine, alone, _bench(tasks[:1]))
    times = alternate(sides, effort.rounds)
    bare = times["bare"].median
    figures = [Figure("bare backbone", BATCH / bare, "inputs/s", f"{BATCH} inputs in a batch, {bare * 1e3:.1f} ms")]
    figures += [_ratio(f"{name} to bare", times[name], times["bare"]) for name in chosen if name != "bare"]
    if "model" in sides:
        plain, ours = times["model"].median * 1e3, times["one"].median * 1e3
        figures.append(Figure("one input: engine over the plain model", ours - plain, "ms", f"model {plain:.1f} ms"))
    *_, most = counted
    return figures, {"inputs": BATCH / times[most].median, "one task": BATCH / times["1 task"].median}


def _generation_figures(
    runtime: Runtime, tasks: Sequence[StoredTask], texts: Sequence[str], effort: Effort
) -> tuple[list[Figure], dict[str, float]]:
    backbone = runtime.backbone
    engine = new_engine(backbone, streams=STREAMS)
    prompts = [one.ids[:PROMPT] for one in backbone.tokenizer.encode(repeated(texts, STREAMS), backbone.max_tokens)]
    sides = {"bare": generation(engine, prompts, [_BARE], NEW)}
    counted = _by_count(tasks, STREAMS)
    sides |= {name: generation(engine, prompts, own, NEW) for name, own in counted.items()}
    sides["one bare"] = generation(engine, prompts[:1], [_BARE], NEW)
    sides["one"] = generation(engine, prompts[:1], _bench(tasks[:1]), NEW)
    times = alternate(sides, max(effort.rounds // 2, 1))
    rate = STREAMS * NEW / times["bare"].median
    *_, most = counted
    return [
        Figure("bare backbone, streams", rate, "tokens/s", f"{STREAMS} streams of {NEW} tokens"),
        *(_ratio(f"streams: {name} to bare", times[name], times["bare"]) for name in counted),
        _ratio("one stream: one task to bare", times["one"], times["one bare"]),
    ], {"tokens": STREAMS * NEW / times[most].median}


def memory_figures(runtime: Runtime, tasks: Sequence[StoredTask]) -> list[Figure]:
    """What adapters take in slots, and how long each took to get there."""
    sizes = [task.adapter.nbytes for task in tasks]
    loads = Times(tuple(task.load_seconds for task in tasks))
    files = sum(task.version.info.bytes for task in tasks) / 2**20
    longest = max(loads.seconds) * 1e3
    return [
        Figure("adapters in slots", sum(sizes) / 2**20, "MiB", f"{len(tasks)} tasks; their files {files:.1f} MiB"),
        Figure("cold adapter to its slot, p50", loads.median * 1e3, "ms", f"longest {longest:.1f} ms"),
    ]


def http_figures(
    server: BenchServer, tasks: Mapping[str, bool], texts: Sequence[str], rates: Mapping[str, float], effort: Effort
) -> Iterator[Figure]:
    """What HTTP costs. `tasks`: by name, whether it generates; `rates`: the engine's own, by `inputs` and `tokens`."""
    single = [name for name, generates in tasks.items() if not generates]
    if single:
        asked = zip(itertools.cycle(single), _cycle(texts, 4 * BATCH), strict=False)
        questions = [_predict(name, text) for name, text in asked]
        server.load(questions, connections=effort.connections, count=4 * BATCH)  # warms everything up
        load = server.load(questions, connections=effort.connections, seconds=effort.seconds)
        yield Figure("HTTP: requests", load.rate, "requests/s", _latency(load.latency, effort.connections))
        yield Figure("HTTP: of the engine's rate", load.rate / rates["inputs"])
        many = [(f"/v1/tasks/{single[0]}/predict", {"inputs": list(_cycle(texts, BATCH)), "parameters": _TRUNCATE})]
        load = server.load(many, connections=1, seconds=effort.seconds / 2)
        yield Figure(f"{BATCH} inputs in one call: of the engine's rate", load.rate * BATCH / rates["one task"])
        load = server.load(questions[:1], connections=1, seconds=effort.seconds / 4)
        yield Figure("one connection", load.latency["0.5"] * 1e3, "ms", "median of one input after the other")
    streaming = [name for name, generates in tasks.items() if generates]
    if streaming:
        body = {"max_tokens": NEW, "stream": True, "temperature": 0, "ignore_eos": True}
        prompts = list(_cycle(texts, STREAMS))
        questions = [
            ("/v1/completions", {"model": name, "prompt": " ".join(prompt.split()[:10]), **body})
            for name, prompt in zip(itertools.cycle(streaming), prompts, strict=False)
        ]
        server.load(questions, connections=STREAMS, count=STREAMS)
        load = server.load(questions, connections=STREAMS, seconds=effort.seconds)
        tokens = load.answers * NEW / load.seconds
        yield Figure("HTTP: streams", tokens, "tokens/s", _latency(load.latency, STREAMS))
        yield Figure("HTTP: streams of the engine's rate", tokens / rates["tokens"])


def _plain_model(runtime: Runtime, ids: Sequence[int]) -> Callable[[], None]:
    """transformers' unmodified model over one input."""
    model = runtime.backbone.original
    assert model is not None
    given = torch.tensor([list(ids)], device=runtime.backbone.device)
    mask = torch.ones_like(given)

    def run() -> None:
        model(input_ids=given, attention_mask=mask)

    return run


def _bench(tasks: Sequence[StoredTask]) -> list[BenchTask]:
    return [BenchTask(task.name, task.adapter) for task in tasks]


def _by_count(tasks: Sequence[StoredTask], most: int) -> dict[str, list[BenchTask]]:
    """The first 1, half and all of the tasks, as far as a batch has inputs for them."""
    counts = sorted({1, max(min(len(tasks), most) // 2, 1), min(len(tasks), most)})
    return {f"{count} task{'s' if count > 1 else ''}": _bench(tasks[:count]) for count in counts}


def _by_method(tasks: Sequence[StoredTask]) -> dict[str, list[BenchTask]]:
    methods: dict[str, list[StoredTask]] = {}
    for task in tasks:
        methods.setdefault(task.version.info.method, []).append(task)
    return {f"method {name} ({len(own)})": _bench(own) for name, own in sorted(methods.items())}


def _ratio(name: str, side: Times, other: Times) -> Figure:
    return Figure(name, side.median / other.median, "", f"{side.median * 1e3:.1f} to {other.median * 1e3:.1f} ms")


def _predict(task: str, text: str) -> Question:
    return f"/v1/tasks/{task}/predict", {"inputs": text, "parameters": _TRUNCATE}


def _cycle(texts: Sequence[str], count: int) -> Iterator[str]:
    return itertools.islice(itertools.cycle(texts), count)


def _latency(latency: Mapping[str, float], connections: int) -> str:
    return f"{connections} connections, p50 {latency['0.5'] * 1e3:.0f} ms, p99 {latency['0.99'] * 1e3:.0f} ms"
