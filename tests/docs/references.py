"""Tables in the documentation that say what the program has: settings, metrics, recipes.

    python -m tests.docs.references

writes them again; `test_references` compares.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from manyhats.core.answered import Answered
from manyhats.methods.registry import METHODS
from manyhats.runtime import Runtime
from manyhats.settings import Settings
from pydantic import ByteSize
from pydantic_core import PydanticUndefined

from tests import tiny, tiny_models
from tests.docs.pages import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "methods.md"
# By recipe: its row in the results, where it has one; the paper's arXiv number; what it is, in a few words.
RECIPES = {
    "lora": ("LoRA", "2106.09685", "a low-rank change of linear layers"),
    "rslora": (None, "2312.03732", "LoRA, scaled by the root of the rank: for high ranks"),
    "dora": ("DoRA", "2402.09353", "LoRA on directions, and lengths of their own"),
    "vera": ("VeRA", "2310.11454", "LoRA of shared random matrices; only their scales are trained"),
    "houlsby": ("Houlsby adapter", "1902.00751", "a small layer after attention and after feed-forward"),
    "pfeiffer": ("Pfeiffer adapter", "2005.00247", "a small layer after feed-forward"),
    "parallel": ("parallel adapter", "2110.04366", "a small layer beside feed-forward"),
    "compacter": ("compacter", "2106.04647", "a bottleneck adapter of Kronecker products"),
    "invertible": ("Pfeiffer and invertible adapter", "2005.00052", "MAD-X: Pfeiffer's, and one over the embeddings"),
    "fusion": ("AdapterFusion of the four Pfeiffer adapters", "2005.00247", "attention over several trained adapters"),
    "average": (None, "", "the mean of several trained adapters; only the head is trained"),
    "mam": ("MAM (prefix and parallel adapter)", "2110.04366", "prefix and parallel adapter"),
    "unipelt": ("UniPELT (gated prefix, LoRA, adapter)", "2110.07577", "prefix, LoRA and adapter, each behind a gate"),
    "mask": ("mask-tuning", "2004.12406", "which weights to keep: one bit each"),
    "sparse": ("sparse (L0-close)", "2004.14129", "a few changed weights, the most moved ones"),
    "diff-pruning": ("diff pruning", "2012.07463", "a few changed weights, chosen while training"),
    "side": ("side-tuning", "1912.13503", "a smaller network beside the backbone"),
    "prefix": ("prefix-tuning", "2101.00190", "learned keys and values before the text, in every layer"),
    "prefix-mlp": ("prefix-tuning through the MLP", "2101.00190", "the same, trained through a network"),
    "prompt": ("prompt tuning", "2104.08691", "learned vectors before the text"),
    "p-tuning": ("P-tuning", "2103.10385", "the same, trained through an LSTM"),
    "ia3": ("IA3", "2205.05638", "factors for keys, values and feed-forward"),
    "bitfit": ("BitFit", "2106.10199", "biases alone"),
    "layer-norm": ("LN-tuning", "2211.08682", "norms alone"),
    "token-rows": (None, "", "the embeddings of chosen words"),
}
_COLUMNS = {"mean": 5, "trained": 7, "bytes": 8, "training": 9, "serving": 10}  # of the results


def results() -> dict[str, list[str]]:
    """The rows of the results by their first cell."""
    rows = (line.strip("| \n").split(" | ") for line in RESULTS.read_text().splitlines() if line.startswith("| "))
    return {row[0]: row for row in rows}


def recipes() -> str:
    """Every recipe that is trained to be served, with what it costs."""
    measured = results()
    lines = [
        "| `--method` | what is trained | paper | score | trained | a task | training | serving | files |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    found = {
        name: (method, recipe)
        for method in METHODS.values()
        for name, recipe in method.recipes.items()
        if not recipe.baseline and not recipe.general
    }
    assert set(found) == set(RECIPES), set(found) ^ set(RECIPES)
    for name, (row, number, what) in RECIPES.items():
        method, recipe = found[name]
        paper = f"[{recipe.source}](https://arxiv.org/abs/{number})" if number else recipe.source
        cells = ["-"] * len(_COLUMNS)
        if row is not None:
            cells = [measured[row][place] for place in _COLUMNS.values()]
            cells[0] = cells[0].partition(" ±")[0]
        bottleneck = method.name == "bottleneck" and not recipe.additional
        files = "PEFT" if recipe.peft else "AdapterHub" if bottleneck else "ours"
        lines.append(f"| `{name}` | {what} | {paper} | {' | '.join(cells)} | {files} |")
    return "\n".join(lines)


def settings() -> str:
    """Every setting with its default and its meaning."""
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.default
        if isinstance(default, ByteSize):
            shown = f"`{default.human_readable(separator=' ').replace('.0 ', ' ')}`" if default else "`0`"
        elif default in ("", None, PydanticUndefined) or (default == () and name != "adapter_folders"):
            shown = ""
        else:
            shown = f"`{default}`"
        lines.append(f"| `{name}` | {shown} | {field.description} |")
    return "\n".join(lines)


def metrics() -> str:
    """Every metric of a server with a decoder, by its registry."""
    return _table([family for family in _families() if not family.name.startswith("vllm:")])


def vllm_metrics() -> str:
    """Those under vLLM's names."""
    return _table([family for family in _families() if family.name.startswith("vllm:")])


@cache
def _families() -> list[Any]:
    with tempfile.TemporaryDirectory() as folder:
        backbone = tiny.load(tiny_models.write_base("llama", Path(folder) / "llama"))
        settings = Settings(store=Path(folder) / "store", self_check=False, metrics_vllm_names=True)
        runtime = Runtime(settings, backbone=backbone)
        runtime.open()
        try:
            runtime.metrics.answered(Answered("task", 0.0, 0.1, inputs=1, load_ms=1.0, token_times=[(0.1, 0.2)]))
            runtime.metrics.http.ended("GET /healthz", 200, 0.1)
            return list(runtime.metrics.registry.collect())
        finally:
            runtime.close()


def _table(families: list[Any]) -> str:
    return "\n".join(["| metric | type | labels | meaning |", "|---|---|---|---|", *map(_metric, families)])


def _metric(family: Any) -> str:
    name = f"{family.name}_total" if family.type == "counter" else family.name
    labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
    named = {"manyhats_quarantined": ["task", "version"]}
    labels = labels or named.get(family.name, [])
    return f"| `{name}` | {family.type} | {', '.join(f'`{label}`' for label in labels)} | {family.documentation} |"


TABLES: dict[str, tuple[str, Callable[[], str]]] = {
    "settings": ("docs/settings.md", settings),
    "metrics": ("docs/metrics.md", metrics),
    "vllm-metrics": ("docs/metrics.md", vllm_metrics),
    "recipes": ("docs/which-method.md", recipes),
}


def section(name: str) -> str:
    """A table as it stands on its page."""
    page, _ = TABLES[name]
    return _marked(name).search((ROOT / page).read_text(encoding="utf-8"))[1].strip("\n")  # type: ignore[index]


def _marked(name: str) -> re.Pattern[str]:
    return re.compile(f"<!-- {name} -->\n(.*?)<!-- end of {name} -->", re.DOTALL)


if __name__ == "__main__":
    for name, (page, made) in TABLES.items():
        path, table = ROOT / page, made()
        text = path.read_text(encoding="utf-8")
        path.write_text(_marked(name).sub(lambda _, t=table, n=name: f"<!-- {n} -->\n{t}\n<!-- end of {n} -->", text))
