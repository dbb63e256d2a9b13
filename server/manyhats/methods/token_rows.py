"""Trained tokens: some rows of an embedding in place of the backbone's (PEFT's `trainable_token_indices`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

import torch
from torch import Tensor, nn

from manyhats.backbone.sites import LM_HEAD
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.kernels.base import Rows
from manyhats.messages import short_repr
from manyhats.methods.base import BoundComponent, Method, Trainable, expect_leaves, expect_shape
from manyhats.methods.component import Component, MethodConfig
from manyhats.methods.libraries.peft import WRAPPER, FullName, PeftFiles, PeftType, PeftWriter, claim
from manyhats.methods.libraries.peft_fields import LIST_OR_OBJECT
from manyhats.methods.libraries.unclaimed import UnclaimedTensors
from manyhats.methods.operations import Operation, OwnRows, SetOutputs
from manyhats.methods.options import Options
from manyhats.methods.recipe import Recipe, Schedule
from manyhats.methods.sites import parameter_site

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

NAME: Final = "token_rows"


class TokenRowsConfig(MethodConfig):
    """No fields."""


# ---- PEFT's files


def claim_token_rows(
    unclaimed: UnclaimedTensors, indices: Any, backbone: Backbone
) -> Component[TokenRowsConfig] | None:
    """Trained tokens, alone (TRAINABLE_TOKENS) or with a LoRA. `indices`: a list, or one for each module's name."""
    found, modules = claim(
        unclaimed,
        r"(.+?)(?:\.token_adapter)?\.trainable_tokens_delta",
        lambda module: module if module == LM_HEAD else parameter_site(backbone, module).name,
        "rows",
    )
    for site, leaves in found.items():
        leaves["ids"] = _ids(indices, modules[site], len(leaves["rows"]))
    return Component(NAME, TokenRowsConfig(), found) if found else None


def _ids(indices: Any, module: str, count: int) -> Tensor:
    """The trained tokens of a module, of which the file has `count`. Raises AdapterMismatch and InvalidRequest."""
    if isinstance(indices, dict):
        indices = next((v for name, v in indices.items() if module == name or module.endswith(f".{name}")), None)
    if not isinstance(indices, list) or any(type(i) is not int for i in indices) or len(indices) != count:
        raise AdapterMismatch(
            f"the file has {count} trained tokens of '{module}', but the config names {short_repr(indices)}",
            param="trainable_token_indices",
        )
    try:
        return torch.tensor(indices, dtype=torch.long)
    except (RuntimeError, OverflowError) as error:
        raise InvalidRequest(f"a trained token's number is out of range: {error}", param="token_indices") from None


def _read(unclaimed: UnclaimedTensors, config: Mapping[str, Any], backbone: Backbone) -> list[Component[Any]]:
    component = claim_token_rows(unclaimed, config.get("token_indices"), backbone)
    if component is None:
        raise AdapterMismatch("the file has no 'trainable_tokens_delta'", param="token_indices")
    return [component]


def _holds(component: Component[TokenRowsConfig], backbone: Backbone) -> bool:
    """Whether the rows are at one site: PEFT's files do not store those of a language-model head separately."""
    return component.label in (None, NAME) and len(component.tensors) == 1


def _write(component: Component[TokenRowsConfig], full: FullName, backbone: Backbone) -> PeftFiles:
    (site,) = component.tensors
    leaves = component.tensors[site]
    fields = {
        "peft_type": "TRAINABLE_TOKENS",
        "target_modules": [full(site).rpartition(".")[2]],
        "token_indices": leaves["ids"].tolist(),
    }
    return PeftFiles(fields, {f"{WRAPPER}{full(site)}.trainable_tokens_delta": leaves["rows"]})


TRAINABLE_TOKENS = PeftType(
    "TRAINABLE_TOKENS", _read, {"token_indices": LIST_OR_OBJECT}, leaves=("trainable_tokens_delta",)
)
WRITER = PeftWriter(_holds, _write)


class TokenRows(Method[TokenRowsConfig]):
    """Tensors at an embedding or at the language-model head: `ids` (n,), `rows` (n, dim). The rows of an embedding that
    the language-model head shares are that head's too."""

    name: ClassVar[str] = NAME
    config = TokenRowsConfig
    peft_types = (TRAINABLE_TOKENS,)
    peft_writer = WRITER
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "token-rows": Recipe(
            NAME, Schedule(1e-2, weight_decay=0.0), "PEFT's trainable tokens", peft=True, needs="tokens"
        ),
    }

    def check(self, component: Component[TokenRowsConfig], backbone: Backbone) -> None:
        for site, leaves in component.tensors.items():
            expect_leaves(leaves, ("ids", "rows"), site)
            table = backbone.embedding.get(backbone.bare_name(site))
            if table is None and (backbone.vocabulary is None or site != backbone.vocabulary.output_layer):
                raise AdapterMismatch(f"the backbone {backbone.name} has no embedding called '{site}'", param=site)
            if table is None:
                count, dim = backbone.site_of(site).shape
            else:
                count, dim = table.module.num_embeddings, table.module.embedding_dim
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
            ids, order = leaves["ids"].long().sort()
            ready[site] = ids, leaves["rows"].to(backbone.dtype)[order]
        return _bind(ready, backbone)

    def trainable(self, backbone: Backbone, options: Mapping[str, Any], generator: torch.Generator) -> Trainable:
        """`tokens`: words that are one token each, or tokens' numbers."""
        chosen = Options(options, method=self.name)
        names = chosen.names("tokens", ())
        chosen.reject_unknown()
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


def _bind(sites: Mapping[str, tuple[Tensor, Tensor]], backbone: Backbone) -> BoundComponent:
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
        return _bind({self.site: (self.ids, self.rows)}, self.backbone)

    def component(self) -> Component[TokenRowsConfig]:
        leaves = {"ids": self.ids.cpu(), "rows": self.rows.detach().cpu()}
        return Component(NAME, TokenRowsConfig(), {self.site: leaves})
