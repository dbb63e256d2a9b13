"""Linear layers that read the same rows, computed as one product: query, key and value.

Each product has a fixed cost, which for a short sentence is most of it. The joined weight is a copy in the CPU's layout
(see `prepacking`), in place of one copy for each layer; without it the layers run one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from manyhats.backbone.prepacked_weight import PrepackedWeight
from manyhats.backbone.sites import LinearSite


class JoinedLinear:
    """Some linear sites with the same input."""

    def __init__(self, sites: Sequence[LinearSite]) -> None:
        self.sites = tuple(sites)
        self.prepacked: PrepackedWeight | None = None  # of all together
        self._sizes = [site.shape[0] for site in sites]
        biases = [site.bias for site in sites]
        own = [bias for bias in biases if bias is not None]
        self.bias = torch.cat(own) if len(own) == len(biases) else None

    @property
    def weight(self) -> Tensor:
        """(out of all, in), a copy."""
        return torch.cat([site.weight for site in self.sites])

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        """The layers with their actors: (rows, in) to (rows, out) each, which may be columns of one tensor."""
        packed = self.prepacked
        if packed is not None and len(x) >= packed.min_rows and not torch.is_grad_enabled():
            actors = [site.actor for site in self.sites]
            if all(actor is None or actor.keeps_product for actor in actors):
                parts: Sequence[Tensor] = torch.split(packed(x, self.bias), self._sizes, dim=1)
                for actor, y in zip(actors, parts, strict=True):
                    if actor is not None:
                        actor.change(x, y)
                return parts
        return [site.rows(x) for site in self.sites]
