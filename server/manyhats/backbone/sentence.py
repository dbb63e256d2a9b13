"""How a folder computes embeddings: pooling (`backbone.pooling`), and sentence-transformers' modules after it.

The formulae are sentence-transformers' own (its modules Pooling, Dense, LayerNorm and Normalize), without
pads, which a packed pass does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyhats.errors import ConfigurationError

Mode = Literal["mean", "cls", "last", "max", "mean_sqrt_len", "weightedmean"]
MODES: tuple[str, ...] = get_args(Mode)
Pooling = str | tuple[str, ...]  # a mode, or several whose vectors are concatenated
EVERY_TOKEN = "none"  # instead of a pooling: all states


def modes_of(pooling: Pooling | Sequence[str]) -> tuple[str, ...]:
    """The modes of a pooling, one or several."""
    return (pooling,) if isinstance(pooling, str) else tuple(pooling)


# Classes of torch.nn that take no argument and have no weights.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    module.__name__: module()
    for module in (
        nn.Identity, nn.Tanh, nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.LogSigmoid, nn.LeakyReLU,
        nn.ELU, nn.SELU, nn.CELU, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Hardshrink, nn.Softplus, nn.Softsign,
        nn.Softshrink, nn.Tanhshrink,
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """A linear layer. weight: (out, in), bias: (out,). `activation`: a name among ACTIVATIONS.

    `residual`: added to the output: the input itself (True) or a linear layer of it, (out, in).
    """

    weight: Tensor
    bias: Tensor | None
    activation: str = "Identity"
    residual: Tensor | bool = False

    @property
    def width(self) -> int:
        """Width of its input."""
        return int(self.weight.shape[1])

    @property
    def out(self) -> int:
        """Width of its output."""
        return int(self.weight.shape[0])

    def __call__(self, vectors: Tensor) -> Tensor:
        """(rows, in) to (rows, out)."""
        out = ACTIVATIONS[self.activation](F.linear(vectors, self.weight, self.bias))
        if isinstance(self.residual, Tensor):
            return out + F.linear(vectors, self.residual)
        return out + vectors if self.residual else out


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """A layer norm. weight, bias: (width,)."""

    weight: Tensor
    bias: Tensor

    @property
    def width(self) -> int:
        """Width of its input."""
        return len(self.weight)

    @property
    def out(self) -> int:
        """Width of its output."""
        return len(self.weight)

    def __call__(self, vectors: Tensor) -> Tensor:
        """(rows, width) to the same."""
        return F.layer_norm(vectors, (self.width,), self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class UnitLength:
    """Vectors of length one; a zero vector stays."""

    width: None = None  # any
    out: None = None

    def __call__(self, vectors: Tensor) -> Tensor:
        """(rows, width) to the same."""
        return F.normalize(vectors, dim=-1)


@dataclass(frozen=True, slots=True)
class First:
    """Truncates every vector to its first `out` numbers."""

    out: int
    width: None = None  # any

    def __call__(self, vectors: Tensor) -> Tensor:
        """(rows, width) to (rows, out), or unchanged where there are no more."""
        return vectors[:, : self.out]


Step = Dense | Norm | UnitLength | First


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """The modules between the pooling and the answer, in order; may be empty."""

    steps: tuple[Step, ...] = ()

    def __call__(self, vectors: Tensor) -> Tensor:
        """(rows, width) to (rows, width of the last step)."""
        for step in self.steps:
            vectors = step(vectors)
        return vectors

    @property
    def width(self) -> int | None:
        """Width of its input; None: any."""
        return next((step.width for step in self.steps if step.width is not None), None)

    @property
    def out(self) -> int | None:
        """Width of its output; None: that of its input."""
        return next((step.out for step in reversed(self.steps) if step.out is not None), None)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for step in self.steps for tensor in _tensors(step))

    def to(self, device: torch.device, dtype: torch.dtype) -> Projection:
        """The same on a device in a type."""

        def moved(step: Step) -> Step:
            if isinstance(step, Dense):
                bias = None if step.bias is None else step.bias.to(device, dtype)
                residual = step.residual.to(device, dtype) if isinstance(step.residual, Tensor) else step.residual
                return replace(step, weight=step.weight.to(device, dtype), bias=bias, residual=residual)
            if isinstance(step, Norm):
                return Norm(step.weight.to(device, dtype), step.bias.to(device, dtype))
            return step

        return Projection(tuple(moved(step) for step in self.steps))


def _tensors(step: Step) -> Iterator[Tensor]:
    for tensor in (getattr(step, name, None) for name in ("weight", "bias", "residual")):
        if isinstance(tensor, Tensor):
            yield tensor


@dataclass(frozen=True, slots=True)
class SentenceEmbedding:
    """How a folder computes a text's embedding.

    `stated`: whether it is from a sentence-transformers folder; otherwise it is the mean of the states.
    `prompts`: texts that go before an input, by name. `include_prompt`: whether a prompt's tokens are pooled too.
    `max_tokens`: longer inputs are truncated. `refused`: why the folder's files are not supported.
    """

    pooling: Pooling = "mean"
    normalize: bool = False
    projection: Projection = field(default_factory=Projection)
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    include_prompt: bool = True
    lower_case: bool = False
    max_tokens: int | None = None
    stated: bool = False
    refused: str | None = None

    def check(self) -> None:
        """Raises ConfigurationError where the folder's files are not supported."""
        if self.refused is not None:
            raise ConfigurationError(self.refused)

    def to(self, device: torch.device, dtype: torch.dtype) -> SentenceEmbedding:
        """The same with its weights on a device in a type."""
        return replace(self, projection=self.projection.to(device, dtype))

    def __str__(self) -> str:
        """In words, for a log or a warning."""
        parts = [f"pooling {'+'.join(modes_of(self.pooling))}"]
        dense = [step for step in self.projection.steps if isinstance(step, Dense)]
        if dense:
            parts.append(
                f"{len(dense)} dense layer{'s' if len(dense) > 1 else ''} ({dense[0].width} to {dense[-1].out})"
            )
        if any(isinstance(step, Norm) for step in self.projection.steps):
            parts.append("a layer norm")
        if any(isinstance(step, UnitLength) for step in self.projection.steps):
            parts.append("vectors of length one before the last step")
        parts += [f"the first {step.out} numbers" for step in self.projection.steps if isinstance(step, First)]
        parts.append("vectors of length one" if self.normalize else "vectors not normalised")
        if self.max_tokens is not None:
            parts.append(f"inputs cut after {self.max_tokens} tokens")
        if self.lower_case:
            parts.append("inputs in lower case")
        prompts = [name for name, text in self.prompts.items() if text]
        if prompts:
            parts.append(f"prompts {', '.join(map(repr, prompts[:8]))}{', ...' if prompts[8:] else ''}")
        if self.default_prompt_name is not None:
            tokens = "" if self.include_prompt else ", whose tokens are not pooled"
            parts.append(f"'{self.default_prompt_name}' by default{tokens}")
        return "; ".join(parts)
