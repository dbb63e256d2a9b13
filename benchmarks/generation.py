"""Generated tokens a second of many streams: to the bare backbone, over HTTP, beside PEFT's `generate` and vLLM.

    python benchmarks/generation.py [--backbone build/smollm2] [--dtype float32] [--peft] [--vllm PYTHON] [--json FILE]

All sides of this engine run in turn in one process, and PEFT's with them; vLLM runs in its own environment, whose
Python `--vllm` names. Texts: prompts of 16 to 96 tokens, 64 new tokens, greedy, no end token; adapters: LoRA of rank 8
on all linear layers.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
from manyhats.backbone import Backbone
from manyhats.bench.engine_work import BenchTask, generation, new_engine
from manyhats.bench.machine import machine
from manyhats.bench.report import Figure, publish
from manyhats.bench.server import serving
from manyhats.bench.timing import alternate
from manyhats.formats.reader import read_adapter
from manyhats.methods.bound_adapter import BARE
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

NEW = 64
RANK = 8
TASKS = 16
STREAMS = 32
_SECONDS = 12.0  # of the load over HTTP


def prompts(count: int, vocabulary: int) -> list[list[int]]:
    """Random tokens; lengths evenly distributed from 16 to 96."""
    pick = random.Random(0)
    lengths = [16 + (80 * i) // max(count - 1, 1) for i in range(count)]
    pick.shuffle(lengths)
    return [[pick.randrange(100, vocabulary) for _ in range(length)] for length in lengths]


def make_adapters(backbone: str, folder: Path) -> list[Path]:
    """LoRA adapters as PEFT saves them, with random weights that change the output."""
    model = AutoModelForCausalLM.from_pretrained(backbone)
    made = []
    for i in range(TASKS):
        config = peft.LoraConfig(r=RANK, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        wrapped = peft.get_peft_model(model, config)
        generator = torch.Generator().manual_seed(i)
        with torch.no_grad():
            for name, parameter in wrapped.named_parameters():
                if "lora_B" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.01)
        wrapped.save_pretrained(folder / f"task-{i:02d}")
        made.append(folder / f"task-{i:02d}")
        model = wrapped.unload()
    return made


def padded(texts: list[list[int]]) -> dict[str, torch.Tensor]:
    """Left-padded, as a decoder needs it."""
    longest = max(map(len, texts))
    ids = torch.zeros(len(texts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, text in enumerate(texts):
        ids[i, longest - len(text) :] = torch.tensor(text)
        mask[i, longest - len(text) :] = 1
    return {"input_ids": ids, "attention_mask": mask}


_OPTIONS: dict[str, Any] = {
    "max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0,
}  # fmt: skip


VLLM = """
import json, sys, time
from vllm import LLM, SamplingParams, TokensPrompt
from vllm.lora.request import LoRARequest

def main():
    arguments = json.load(open(sys.argv[1]))
    llm = LLM(arguments["backbone"], dtype=arguments["dtype"], enable_lora=True, max_loras=arguments["tasks"],
              max_lora_rank=8, max_model_len=512, max_num_seqs=64, enable_prefix_caching=False)
    params = SamplingParams(temperature=0, max_tokens=arguments["new"], min_tokens=arguments["new"], ignore_eos=True)
    prompts = [TokensPrompt(prompt_token_ids=p) for p in arguments["prompts"]]
    requests = [LoRARequest(str(i), i + 1, path) for i, path in enumerate(arguments["adapters"])]
    adapter_of_each = [requests[i % len(requests)] for i in range(len(prompts))]
    times = {"16 tasks": [], "bare": []}
    for round_ in range(arguments["rounds"] + 1):
        for name, lora in (("16 tasks", adapter_of_each), ("bare", None)):
            begin = time.perf_counter()
            llm.generate(prompts, params, lora_request=lora, use_tqdm=False)
            if round_:
                times[name].append(time.perf_counter() - begin)
    print("RESULT " + json.dumps(times))

if __name__ == "__main__":  # its engine starts this file anew in a process of its own
    main()
"""


def vllm(
    python: str, backbone: str, dtype: str, adapters: list[Path], texts: list[list[int]], rounds: int
) -> dict[str, float]:
    """Median seconds with and without adapters, in vLLM's own environment."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = {
            "backbone": backbone, "dtype": dtype, "tasks": len(adapters), "new": NEW, "rounds": rounds,
            "prompts": texts, "adapters": [str(path) for path in adapters],
        }  # fmt: skip
        (Path(folder) / "arguments.json").write_text(json.dumps(arguments))
        (Path(folder) / "run.py").write_text(VLLM)
        run = subprocess.run(
            [python, str(Path(folder) / "run.py"), str(Path(folder) / "arguments.json")],
            capture_output=True,
            text=True,
            check=False,
            # all cores, as the other sides have; by default it keeps one for itself
            env={"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0", **os.environ},
        )
    line = next((line for line in run.stdout.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise SystemExit(f"vLLM failed:\n{(run.stdout + run.stderr)[-4000:]}")
    return {name: statistics.median(times) for name, times in json.loads(line.removeprefix("RESULT ")).items()}


def peft_mixed(model: Any, names: list[str], texts: list[list[int]]) -> Callable[[], None]:
    """All texts in one batch, with PEFT's `adapter_names` for each."""
    adapter_of_each = [names[i % len(names)] for i in range(len(texts))]
    given = padded(texts)
    return lambda: model.generate(**given, **_OPTIONS, adapter_names=adapter_of_each)


def peft_model(backbone: str, paths: list[Path], dtype: str) -> Any:
    """PEFT with all adapters loaded."""
    base = AutoModelForCausalLM.from_pretrained(backbone, dtype=getattr(torch, dtype))
    model = peft.PeftModel.from_pretrained(base, paths[0], adapter_name=paths[0].name)
    for path in paths[1:]:
        model.load_adapter(path, adapter_name=path.name)
    return model.eval()


def over_http(backbone: str, dtype: str, store: Path, names: list[str]) -> tuple[float, str]:
    """Tokens a second of 32 streams over server-sent events."""
    body = {"max_tokens": NEW, "stream": True, "temperature": 0, "ignore_eos": True}
    texts = prompts(STREAMS, 20_000)
    questions = [
        ("/v1/completions", {"model": names[i % TASKS], "prompt": texts[i][:64], **body}) for i in range(STREAMS)
    ]
    options = {"backbone": backbone, "store": store, "dtype": dtype, "preload": TASKS, "log_level": "warning"}
    with serving(options) as server:
        server.load(questions, connections=STREAMS, count=STREAMS)
        load = server.load(questions, connections=STREAMS, seconds=_SECONDS)
    detail = f"a text p50 {load.latency['0.5']:.2f} s, p99 {load.latency['0.99']:.2f} s"
    return load.answers * NEW / load.seconds, detail


def measure(given: argparse.Namespace, dtype: str, paths: list[Path], store: Path) -> list[Figure]:
    """All figures of one dtype."""
    backbone = Backbone.load(given.backbone, device="cpu", dtype=dtype, prepacked=True)
    texts = prompts(STREAMS, backbone.config.vocab_size)
    # first: another environment is what fails most easily
    theirs = vllm(given.vllm, given.backbone, dtype, paths, texts, given.rounds) if given.vllm else {}
    tasks = [BenchTask(path.name, read_adapter(path, backbone).bind(backbone)) for path in paths]
    engine = new_engine(backbone, tokens=512)  # as a server on a CPU
    bare = [BenchTask("base", BARE)]
    sides: dict[str, Callable[[], object]] = {
        "32 bare": generation(engine, texts, bare, NEW),
        "32, 16 tasks": generation(engine, texts, tasks, NEW),
        "32, 1 task": generation(engine, texts, tasks[:1], NEW),
        "1 bare": generation(engine, texts[:1], bare, NEW),
        "1, 1 task": generation(engine, texts[:1], tasks[:1], NEW),
    }
    if given.peft:
        sides["PEFT"] = peft_mixed(peft_model(given.backbone, paths, dtype), [path.name for path in paths], texts)
    with torch.inference_mode():
        times = alternate(sides, given.rounds)
    seconds = {name: spent.median for name, spent in times.items()}
    rates = {name: (1 if name.startswith("1") else STREAMS) * NEW / spent for name, spent in seconds.items()}
    label = f"SmolLM2, {dtype}"

    def ratio(name: str, over: str, under: str) -> Figure:
        detail = f"{rates[under]:.0f} and {rates[over]:.0f} tokens/s"
        return Figure(f"{label}: {name}", seconds[over] / seconds[under], "", detail)

    figures = [
        Figure(f"{label}: 32 streams, bare", rates["32 bare"], "tokens/s"),
        ratio("32 streams, 16 LoRA tasks to bare", "32, 16 tasks", "32 bare"),
        ratio("32 streams, 1 LoRA task to bare", "32, 1 task", "32 bare"),
        ratio("one stream, one LoRA, of bare", "1 bare", "1, 1 task"),
    ]
    if given.peft:
        figures.append(ratio("PEFT's adapter_names to ours", "PEFT", "32, 16 tasks"))
    rate, detail = over_http(given.backbone, dtype, store, [path.name for path in paths])
    figures.append(
        Figure(f"{label}: 32 streams over HTTP, of the engine's rate", rate / rates["32, 16 tasks"], "", detail)
    )
    if theirs:
        figures.append(Figure(f"{label}: 16 LoRA tasks, ours to vLLM", theirs["16 tasks"] / seconds["32, 16 tasks"]))
        figures.append(Figure(f"{label}: bare, ours to vLLM", theirs["bare"] / seconds["32 bare"]))
    return figures


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="build/smollm2")
    parser.add_argument("--dtype", action="append", choices=("float32", "bfloat16"), help="may be repeated")
    parser.add_argument("--peft", action="store_true", help="compare with PEFT")
    parser.add_argument("--vllm", help="the Python of an environment with vLLM")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    transformers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        paths = make_adapters(given.backbone, Path(folder))
        figures = [figure for d in given.dtype or ["float32"] for figure in measure(given, d, paths, Path(folder))]
    publish(f"texts of {NEW} tokens, medians of {given.rounds} rounds", machine(["peft"]), figures, given.json)


if __name__ == "__main__":
    main()
