"""Trained tokens: some rows of an embedding in place of the backbone's (PEFT's `trainable_token_indices`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.kernels.base import Rows
from manyhats.methods.base import BoundComponent, Method, Trainable, expect_leaves, expect_shape
from manyhats.methods.component import Component, MethodConfig
from manyhats.methods.operations import Operation, OwnRows, SetOutputs
from manyhats.methods.options import Options

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class TokenRowsConfig(MethodConfig):
    """Nothing: the leaves say all."""


class TokenRows(Method[TokenRowsConfig]):
    """Leaves at an embedding or at the language-model head: `ids` (n,), `rows` (n, dim). The rows of an embedding that
    the language-model head shares are that head's too."""

    name: ClassVar[str] = "token_rows"
    config = TokenRowsConfig

    def check(self, component: Component[TokenRowsConfig], backbone: Backbone) -> None:
        for site, leaves in component.tensors.items():
            expect_leaves(leaves, ("ids", "rows"), site)
            place = backbone.embedding.get(backbone.bare_name(site))
            if place is None and (backbone.vocabulary is None or site != backbone.vocabulary.output_layer):
                raise AdapterMismatch(f"the backbone {backbone.name} has no embedding called '{site}'", param=site)
            if place is None:
                count, dim = backbone.site_of(site).shape
            else:
                count, dim = place.module.num_embeddings, place.module.embedding_dim
            ids = leaves["ids"]
            expect_shape(leaves["rows"], (len(ids), dim), f"{site}.rows", backbone)
            if not len(ids) or len(torch.unique(ids)) != len(ids):
                raise AdapterMismatch(f"the tokens of '{site}' are none, or one stands twice", param="token_indices")
            if int(ids.min()) < 0 or int(ids.max()) >= count:
                raise AdapterMismatch(
                    f"the tokens of '{site}' run from {int(ids.min())} to {int(ids.max())}; the backbone has {count}",
                    param="token_indices",
                )

    def bind(self, component: Component[TokenRowsConfig], backbone: Backbone) -> BoundComponent:
        ready: dict[str, tuple[Tensor, Tensor]] = {}
        for site, leaves in component.tensors.items():
            ids, order = leaves["ids"].to(backbone.device, torch.long).sort()
            ready[site] = ids, leaves["rows"].to(backbone.device, backbone.dtype)[order]
        return _bound(ready, backbone)

    def trainable(self, backbone: Backbone, options: Mapping[str, Any], generator: torch.Generator) -> Trainable:
        """`tokens`: words that are one token each, or tokens' numbers."""
        chosen = Options(options, method=self.name)
        names = chosen.names("tokens", ())
        chosen.done()
        return _TrainableRows(backbone, sorted({_token(backbone, name) for name in names}))


def _token(backbone: Backbone, name: str) -> int:
    """Raises InvalidRequest for a word that is no token, or several, and for a number beyond the vocabulary."""
    count = backbone.embedding[backbone.family.word_embeddings].module.num_embeddings
    ids = [int(name)] if name.isdecimal() else backbone.tokenizer.encode_bare(name, backbone.max_tokens).ids
    if len(ids) != 1 or ids[0] >= count:
        found = f"{len(ids)} tokens" if len(ids) != 1 else "no token"
        raise InvalidRequest(
            f"token_rows: '{name}' is {found} of this backbone's {count}; name words that are one token each, or "
            "tokens by their numbers",
            param="tokens",
        )
    return ids[0]


def _bound(sites: Mapping[str, tuple[Tensor, Tensor]], backbone: Backbone) -> BoundComponent:
    """By site: ids (n,), rising, and rows (n, dim)."""
    embedding: dict[str, OwnRows] = {}
    linear: dict[str, list[Operation]] = {}
    head = backbone.vocabulary
    for site, (ids, rows) in sites.items():
        name = backbone.bare_name(site)
        if name in backbone.embedding:
            embedding[name] = OwnRows(Rows(rows, ids))
        if head is not None and (name == head.output_layer or (head.tied and name == backbone.family.word_embeddings)):
            linear[head.output_layer] = [SetOutputs(ids, rows)]
    return BoundComponent(embedding=embedding, linear=linear, nbytes=sum(rows.nbytes for _, rows in sites.values()))


class _TrainableRows(Trainable):
    def __init__(self, backbone: Backbone, ids: Sequence[int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.site = backbone.family.word_embeddings
        self.ids = torch.tensor(ids, dtype=torch.long, device=backbone.device)
        own = backbone.embedding[self.site].module.weight
        self.rows = nn.Parameter(own[self.ids].detach().float().clone())

    def bound(self) -> BoundComponent:
        return _bound({self.site: (self.ids, self.rows)}, self.backbone)

    def component(self) -> Component[TokenRowsConfig]:
        leaves = {"ids": self.ids.cpu(), "rows": self.rows.detach().cpu()}
        return Component(TokenRows.name, TokenRowsConfig(), {self.site: leaves})
