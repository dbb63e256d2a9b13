"""What the project holds itself to, by the name of the figure."""

from __future__ import annotations

from dataclasses import dataclass

_TOLERATED = 0.1  # a miss by so much still counts as met: the machines are noisy


@dataclass(frozen=True, slots=True)
class Target:
    """`limit`: the most that the figure may be, or with `at_least` the least."""

    figure: str
    limit: float
    at_least: bool = False

    def met(self, value: float) -> bool:
        """Whether a figure is within the limit."""
        return value >= self.limit if self.at_least else value <= self.limit

    def missed(self, value: float) -> bool:
        """Whether a figure is beyond the limit by more than what is tolerated."""
        return not self.met(value) and abs(value - self.limit) > _TOLERATED * self.limit


def _encoder(shape: str) -> list[Target]:
    limits = {
        "32 LoRA tasks": (1.10, 1.30),
        "64 LoRA tasks": (1.15, 1.40),
        "twelve methods over 32 tasks": (1.3, 1.5),
        "32 masks": (1.4, 1.4),
    }
    return [
        Target(f"{shape}, {dtype}: {name} to bare", limit[i])
        for name, limit in limits.items()
        for i, dtype in enumerate(("float32", "bfloat16"))
    ]


def _generation(dtype: str, tasks: float, vllm: float) -> list[Target]:
    return [
        Target(f"SmolLM2, {dtype}: 32 streams, 16 LoRA tasks to bare", tasks),
        Target(f"SmolLM2, {dtype}: one stream, one LoRA, of bare", 0.9, at_least=True),
        Target(f"SmolLM2, {dtype}: 32 streams over HTTP, of the engine's rate", 0.9, at_least=True),
        Target(f"SmolLM2, {dtype}: 16 LoRA tasks, ours to vLLM", vllm, at_least=True),
    ]


TARGETS: tuple[Target, ...] = (
    *_encoder("minilm"),
    *_encoder("bert-base"),
    Target("PEFT to ours, float32", 5, at_least=True),
    Target("PEFT to ours, bfloat16", 8, at_least=True),
    Target("PEFT to ours, as each comes", 14, at_least=True),
    Target("polylora to ours, float32", 4.5, at_least=True),
    Target("AdapterHub's BatchSplit to ours, 32 Houlsby adapters, float32", 4, at_least=True),
    Target("HTTP: 32 tasks, of the engine's rate", 0.75, at_least=True),
    Target("HTTP: bare embeddings, of the engine's rate", 0.75, at_least=True),
    Target("HTTP: bare embeddings, ours to infinity", 5, at_least=True),
    Target("HTTP: 32 resident tasks, of one task's rate", 0.85, at_least=True),
    Target("HTTP: 256 resident tasks, of one task's rate", 0.85, at_least=True),
    Target("HTTP: 1024 resident tasks, of one task's rate", 0.85, at_least=True),
    Target("HTTP: Zipf over 1024 tasks, of one task's rate", 0.9, at_least=True),
    Target("HTTP: 64 inputs in one call, of the engine's rate", 0.9, at_least=True),
    Target("HTTP: one request alone, over the plain model", 2),
    Target("HTTP: working set twice the slots, uniform", 0.8, at_least=True),
    Target("HTTP: working set twice the slots, Zipf", 0.95, at_least=True),
    Target("memory of 1000 resident tasks, to their bytes as served", 1.15),
    Target("upload of 1.3 MB, checked, p50", 25),
    Target("cold adapter to its slot, p50", 3),
    Target("cold adapter to its slot, longest", 8),
    *_generation("float32", 1.10, 2),
    *_generation("bfloat16", 1.20, 2.5),
)
