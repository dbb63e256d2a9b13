"""Linear layers that read the same rows: query, key and value; gate and up.

On CPUs those of BERT's like are computed as one product, as each has a fixed cost, which for a short sentence is most
of it. The joined weight is a copy in the CPU's layout (see `prepacking`), in place of one copy for each layer.

Kernels that compute low-rank pairs of several layers in one call get all outputs together. Where transformers calls the
layers one after the other, the first computes all, and the others' outputs are kept for the calls that follow.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from manyhats.backbone.prepacked_weight import PrepackedWeight
from manyhats.backbone.sites import JoinedActor, LinearSite


class JoinedLinear:
    """Some linear sites with the same input. `names`: of the sites."""

    def __init__(self, sites: Sequence[LinearSite]) -> None:
        self.sites = tuple(sites)
        self.names = tuple(site.name for site in sites)
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
        joined = joined_actor(self.sites, self.names)
        return [site.rows(x) for site in self.sites] if joined is None else joined_rows(self.sites, joined, x)


class CalledInTurn:
    """The same, of modules that transformers calls one after the other. `names`: of the sites."""

    def __init__(self, sites: Sequence[LinearSite]) -> None:
        self.names = tuple(site.name for site in sites)
        self._sites = tuple(sites)
        self._input: Tensor | None = None
        self._outputs: dict[str, Tensor] = {}  # for this input, of those that have not been called yet
        for site in sites:
            site.shared = self

    def begin(self) -> None:
        """Starts a pass: what a failed one left behind is dropped."""
        self._input = None
        self._outputs.clear()

    def output(self, site: LinearSite, x: Tensor) -> Tensor | None:
        """See `sites.SharedInput`."""
        if x is self._input:  # the tensor itself: equal values are not looked for
            kept = self._outputs.pop(site.name, None)
            if kept is not None:
                if not self._outputs:
                    self._input = None
                return kept
        joined = joined_actor(self._sites, self.names)
        if joined is None:
            return None
        outputs = joined_rows(self._sites, joined, x.reshape(-1, x.shape[-1]))
        self._input, self._outputs = x, dict(zip(self.names, outputs, strict=True))
        return self._outputs.pop(site.name)


def joined_actor(sites: Sequence[LinearSite], names: tuple[str, ...]) -> JoinedActor | None:
    """The actor of some sites together; None where each has its own, as with gradients."""
    return None if torch.is_grad_enabled() else sites[0].joined_actor(names)


def joined_rows(sites: Sequence[LinearSite], joined: JoinedActor, x: Tensor) -> Sequence[Tensor]:
    """Sites with their actors: (rows, in) to (rows, out) each."""
    actors = [(site, site.actor) for site in sites]
    ys = [site.product(x) if actor is None else actor.product(x, site) for site, actor in actors]
    joined(x, ys)
    return ys
