"""LoRA: a low-rank difference beside a linear layer (Hu et al. 2021, section 4.1).

y = W x + b + s B A x        A: (r, in), B: (out, r), s = alpha / r  (rsLoRA: alpha / sqrt(r))
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from manyhats.errors import InvalidRequest
from manyhats.methods.base import (
    Act,
    Bound,
    Method,
    MethodConfig,
    Part,
    Trainable,
    expect_leaves,
    expect_matrix,
    expect_shape,
)
from manyhats.methods.options import Options

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class LoraConfig(MethodConfig):
    """`scales`: s for every site."""

    scales: dict[str, float]


class _Pair(NamedTuple):
    down: Tensor  # (r, in): A, as in the file
    up: Tensor  # (r, out): s B transposed


class Lora(Method):
    """Leaves at a linear site: `A` (r, in), `B` (out, r)."""

    name: ClassVar[str] = "lora"

    def check(self, part: Part, backbone: Backbone) -> None:
        for site, leaves in part.tensors.items():
            expect_leaves(leaves, ("A", "B"), site)
            out, width = backbone.site_of(site).shape
            rank = expect_matrix(leaves["A"], f"{site}.lora_A")
            expect_shape(leaves["A"], (rank, width), f"{site}.lora_A", backbone)
            expect_shape(leaves["B"], (out, rank), f"{site}.lora_B", backbone)

    def bind(self, part: Part, backbone: Backbone) -> Bound:
        assert isinstance(part.config, LoraConfig)
        scales = part.config.scales
        pairs = {
            site: _Pair(
                leaves["A"].to(backbone.device, backbone.dtype).contiguous(),
                (leaves["B"].to(backbone.device, torch.float32).T * scales[site]).to(backbone.dtype).contiguous(),
            )
            for site, leaves in part.tensors.items()
        }
        return Bound(linear=pairs, nbytes=sum(t.nbytes for pair in pairs.values() for t in pair))

    def rank(self, part: Part) -> int | None:
        return max(leaves["A"].shape[0] for leaves in part.tensors.values())

    def after_linear(self, x: Tensor, y: Tensor, acts: Sequence[Act]) -> None:
        for rows, (down, up), _ in acts:
            # A x^T: on a CPU a product with r rows is faster than the same one with r columns (docs/performance.md)
            y[rows].addmm_((down @ x[rows].T).T, up)

    def trainable(self, backbone: Backbone, options: Mapping[str, Any], generator: torch.Generator) -> Trainable:
        chosen = Options(options, method=self.name)
        rank = chosen.integer("rank", 8, least=1)
        alpha = chosen.number("alpha", 2.0 * rank)
        targets = chosen.names("targets", ["all-linear"])
        chosen.done()
        return _TrainableLora(backbone, target_sites(backbone, targets), rank, alpha / rank, generator)


def target_sites(backbone: Backbone, targets: Sequence[str]) -> list[str]:
    """The linear sites inside the blocks that the names mean: `all-linear`, or last parts of module paths.

    Raises InvalidRequest where a name matches none.
    """
    root = backbone.family.block.split("{i}")[0]
    inside = [name for name in backbone.linear if name.startswith(root)]
    if list(targets) == ["all-linear"]:
        return inside
    chosen = [name for name in inside if any(name == t or name.endswith("." + t) for t in targets)]
    for target in targets:
        if not any(name == target or name.endswith("." + target) for name in chosen):
            raise InvalidRequest(f"no linear layer is called '{target}'", param="targets")
    return chosen


class _TrainableLora(Trainable):
    def __init__(
        self, backbone: Backbone, sites: Sequence[str], rank: int, scale: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.sites = list(sites)
        self.scale = scale
        self.down = nn.ParameterList()
        self.up = nn.ParameterList()
        for site in self.sites:
            out, width = backbone.linear[site].shape
            # PEFT's initialisation: A uniform as nn.Linear's, B zero, so that training starts from the backbone.
            a = torch.empty(rank, width)
            nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
            self.down.append(nn.Parameter(a.to(backbone.device)))
            self.up.append(nn.Parameter(torch.zeros(out, rank, device=backbone.device)))

    def bound(self) -> Bound:
        pairs = zip(self.sites, self.down, self.up, strict=True)
        return Bound(linear={site: _Pair(a, b.T * self.scale) for site, a, b in pairs})

    def part(self) -> Part:
        pairs = zip(self.sites, self.down, self.up, strict=True)
        return Part(
            Lora.name,
            LoraConfig(scales=dict.fromkeys(self.sites, self.scale)),
            {site: {"A": a.detach().cpu(), "B": b.detach().cpu()} for site, a, b in pairs},
        )
