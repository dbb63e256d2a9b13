"""Measures generated tokens a second of concurrent requests: this engine, PEFT's `generate` and vLLM's CPU build.

    python benchmarks/generation.py --backbone build/smollm2 [--vllm PYTHON] [--json FILE]

All are measured alternately in one process and on the same threads (vLLM in its own environment, whose Python `--vllm`
names).
Texts: prompts of 16 to 96 tokens, 64 new tokens, greedy, no end token; adapters: LoRA of rank 8 on all linear layers.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import peft
import torch
from manyhats.backbone import Backbone
from manyhats.core.sampling_params import SamplingParams
from manyhats.core.sequence import Request, Sequence
from manyhats.engine.detokenizer import IncrementalDetokenizer
from manyhats.engine.engine import Engine, EngineConfig
from manyhats.formats.reader import read_adapter
from manyhats.methods.bound_adapter import BARE, BoundAdapter
from transformers import AutoModelForCausalLM

NEW = 64
RANK = 8
TASKS = 16


@dataclass(frozen=True)
class Result:
    """Seconds for all texts together, and where it can be measured, to the first token and between tokens."""

    seconds: float
    tokens: int
    first: list[float]
    between: list[float]

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


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
        wrapped.save_pretrained(folder / str(i))
        made.append(folder / str(i))
        model = wrapped.unload()
    return made


def ours(backbone: Backbone, adapters: list[BoundAdapter], texts: list[list[int]]) -> Result:
    """Text i belongs to adapter i modulo their number."""
    engine = Engine(backbone, EngineConfig(max_num_batched_tokens=512, max_num_seqs=64))
    requests = []
    for i, prompt in enumerate(texts):
        task = i % len(adapters)
        decoder = IncrementalDetokenizer(backbone.tokenizer)
        sequence = Sequence(adapters[task], prompt, SamplingParams(max_new_tokens=NEW), decoder=decoder)
        requests.append(Request(str(task), [sequence], digest=str(task)))
    begin = time.perf_counter()
    origin = time.monotonic()
    engine.submit(requests)
    while engine.step():  # in this thread, which has torch's threads, like all that is measured
        while engine.detokenizer.step():
            pass
    seconds = time.perf_counter() - begin
    times = [request.sequences[0].token_times for request in requests]
    return Result(
        seconds,
        sum(len(t) for t in times),
        [t[0] - origin for t in times],
        [b - a for t in times for a, b in itertools.pairwise(t)],
    )


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


@torch.inference_mode()
def peft_in_turn(model: Any, names: list[str], texts: list[list[int]]) -> Result:
    """Each task's texts as one batch, one task after another."""
    begin = time.perf_counter()
    for t, name in enumerate(names):
        own = texts[t :: len(names)]
        if own:
            model.set_adapter(name)
            model.generate(**padded(own), **_OPTIONS)
    return Result(time.perf_counter() - begin, NEW * len(texts), [], [])


@torch.inference_mode()
def peft_mixed(model: Any, names: list[str], texts: list[list[int]]) -> Result:
    """All texts in one batch, with PEFT's `adapter_names` for each."""
    begin = time.perf_counter()
    adapter_of_each = [names[i % len(names)] for i in range(len(texts))]
    model.generate(**padded(texts), **_OPTIONS, adapter_names=adapter_of_each)
    return Result(time.perf_counter() - begin, NEW * len(texts), [], [])


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


def vllm(python: str, backbone: str, adapters: list[Path], texts: list[list[int]], rounds: int) -> dict[str, float]:
    """Median seconds with and without adapters, in vLLM's own environment."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = {
            "backbone": backbone, "dtype": "float32", "tasks": len(adapters), "new": NEW, "rounds": rounds,
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
    return {name: median(times) for name, times in json.loads(line.removeprefix("RESULT ")).items()}


def row(name: str, results: list[Result], base: float) -> str:
    """One line of the table: medians over the rounds."""
    rate = median(result.rate for result in results)
    firsts = [t for result in results for t in result.first]
    between = sorted(t for result in results for t in result.between)
    times = ["-", "-", "-"]
    if firsts:
        p99 = between[int(0.99 * (len(between) - 1))]
        times = [f"{1000 * value:.0f}" for value in (median(firsts), median(between), p99)]
    return f"| {name} | {rate:.1f} | {rate / base:.2f} | {' | '.join(times)} |"


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="build/smollm2")
    parser.add_argument("--vllm", help="the Python of an environment with vLLM")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--skip-peft", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        paths = make_adapters(given.backbone, Path(folder))
        backbone = Backbone.load(given.backbone, device="cpu", dtype="float32", prepacked=True)
        bound = [read_adapter(path, backbone).bind(backbone) for path in paths]
        texts = prompts(32, backbone.config.vocab_size)
        results: dict[str, list[Result]] = {}

        def add(name: str, result: Result) -> None:
            results.setdefault(name, []).append(result)
            print(f"{name}: {result.rate:.1f} tokens/s", flush=True)

        names = [f"a{i}" for i in range(TASKS)]
        model: Any = None
        if not given.skip_peft:
            model = AutoModelForCausalLM.from_pretrained(given.backbone)
            model = peft.PeftModel.from_pretrained(model, paths[0], adapter_name=names[0])
            for name, path in zip(names[1:], paths[1:], strict=True):
                model.load_adapter(path, adapter_name=name)
            model.eval()
        ours(backbone, bound, texts[:4])
        for round_ in range(given.rounds):
            add("32 texts, 16 tasks", ours(backbone, bound, texts))
            add("32 texts, bare", ours(backbone, [BARE], texts))
            for tasks in (1, 4):
                add(f"32 texts, {tasks} tasks", ours(backbone, bound[:tasks], texts))
            for count in (1, 8):
                add(f"{count} texts, {count} tasks", ours(backbone, bound[:count], texts[:count]))
                add(f"{count} texts, bare", ours(backbone, [BARE], texts[:count]))
            if model is not None and round_ < 2:
                add("PEFT, task after task", peft_in_turn(model, names, texts))
                add("PEFT, adapter_names", peft_mixed(model, names, texts))
        if given.vllm:
            for name, seconds in vllm(given.vllm, given.backbone, paths, texts, given.rounds).items():
                add(f"vLLM, {name}", Result(seconds, NEW * len(texts), [], []))
    base = median(result.rate for result in results["32 texts, bare"])
    print("\n| | tokens/s | of the bare 32 | first token, ms | between two, p50 | p99 |\n|---|---|---|---|---|---|")
    for name, found in results.items():
        print(row(name, found, base))
    if given.json:
        figures = {name: [result.rate for result in found] for name, found in results.items()}
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
