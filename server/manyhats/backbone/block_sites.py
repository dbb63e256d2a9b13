"""The sites inside a model's blocks, and those before the first and after the last block."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from manyhats.backbone.attention import AttentionSite, PassLayout
from manyhats.backbone.families import Family
from manyhats.backbone.joined_linear import CalledInTurn, JoinedLinear
from manyhats.backbone.sites import EMBEDDED, LAST, ActorContext, LinearSite, ResidualSite, StatesSite, site_of


class BlockSites:
    """Puts the sites into the blocks; a block that several layers share gets them once.

    `residual`: by name, empty where the blocks have none. `joined`: the linear layers that can be one product;
    `shared`: the names of those that read the same rows.
    """

    def __init__(self, model: PreTrainedModel, family: Family, layers: int, context: ActorContext) -> None:
        self.residual: dict[str, ResidualSite] = {}
        self.joined: list[JoinedLinear] = []
        self._in_turn: list[CalledInTurn] = []
        self.last = StatesSite(LAST, context)
        self._embedded = StatesSite(EMBEDDED, context)
        self._entered = False
        self._residual_sites: list[ResidualSite] = []
        self._attention_sites: list[AttentionSite] = []
        known: dict[int, tuple[ResidualSite, ResidualSite, AttentionSite]] = {}
        for layer in range(layers):
            block = model.get_submodule(family.block_name(model.config, layer))
            if id(block) not in known:
                after_attention, after_ffn = ResidualSite(context), ResidualSite(context)
                if family.attach(block, after_attention, after_ffn):
                    self._residual_sites += [after_attention, after_ffn]
                attends = block.get_submodule(family.attention)
                attention = AttentionSite(attends, context)
                joined: JoinedLinear | None = getattr(attends, "manyhats_joined", None)
                if joined is not None:
                    self.joined.append(joined)
                self._in_turn += _called_in_turn(block, family)
                known[id(block)] = after_attention, after_ffn, attention
                self._attention_sites.append(attention)
            after_attention, after_ffn, attention = known[id(block)]
            attention.layers.append(layer)
            for site, sublayer in ((after_attention, "attention"), (after_ffn, "ffn")):
                if site in self._residual_sites:
                    site.names.append(f"layers.{layer}.{sublayer}")
                    self.residual[site.names[-1]] = site
        first = model.get_submodule(family.block_name(model.config, 0))
        first.register_forward_pre_hook(self._enter, with_kwargs=True)
        self.shared = [one.names for one in self.joined] + [one.names for one in self._in_turn]

    def begin(self, layout: PassLayout | None) -> None:
        """Starts a pass with this layout."""
        self._entered = False
        for residual in self._residual_sites:
            residual.begin()
        for attention in self._attention_sites:
            attention.begin(layout)
        for shared in self._in_turn:
            shared.begin()

    def _enter(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The hook before the first block; a shared block runs more than once."""
        if self._entered:
            return None
        self._entered = True
        if args:
            return (self._embedded(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": self._embedded(kwargs["hidden_states"])}


def _called_in_turn(block: nn.Module, family: Family) -> list[CalledInTurn]:
    """The block's layers with one input, but for those that a model of the family does not have."""
    modules = dict(block.named_modules())
    groups = [[site_of(modules[name]) for name in names if name in modules] for names in family.same_input]
    sites = [[site for site in group if isinstance(site, LinearSite)] for group in groups]
    return [CalledInTurn(group) for group in sites if len(group) > 1]
