"""The backbone: one frozen model, its sites, and a forward pass over a packed batch."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from manyhats.backbone import loading
from manyhats.backbone.attention import AttentionLayout, AttentionSite
from manyhats.backbone.families import family_of
from manyhats.backbone.precision import choose_dtype
from manyhats.backbone.sites import Actors, LinearSite, ResidualSite, SiteSwitch, linear_sites
from manyhats.backbone.tokenizer import Tokenizer
from manyhats.errors import AdapterMismatch, ConfigurationError

logger = logging.getLogger(__name__)

NO_ACTORS = Actors()


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """All tokens of some sequences side by side, with no padding. T tokens, S sequences."""

    input_ids: Tensor  # (T,)
    type_ids: Tensor | None  # (T,)
    position_ids: Tensor  # (T,)
    starts: tuple[int, ...]  # (S + 1,) first token of each sequence, and T
    layout: AttentionLayout

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sequence."""
        return [b - a for a, b in zip(self.starts, self.starts[1:], strict=False)]


class Backbone:
    """One frozen transformers encoder. Its weights are never written to.

    `name` is what the operator called it; `sha256` names the checkpoint (see `loading.digest`).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Tokenizer,
        *,
        name: str,
        missing: frozenset[str] = frozenset(),
        sentence_embedding: loading.SentenceEmbedding | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.config = model.config
        self.sentence_embedding = sentence_embedding or loading.SentenceEmbedding()
        self.family = family_of(model.config.model_type)
        model.eval()
        model.requires_grad_(False)
        self.sha256 = loading.digest(model, missing)
        self.device = device or torch.device("cpu")
        self.dtype = dtype or torch.float32
        self.model = model.to(device=self.device, dtype=self.dtype)
        self.prefix: str = model.base_model_prefix
        self._switch = SiteSwitch()
        self._busy = False

        # The pooler reads one row of every sequence; the packed pass keeps all rows, so it is called by itself.
        self._pooler: nn.Module | None = getattr(model, "pooler", None)
        self._pooler_missing = any(name.startswith("pooler.") for name in missing)
        self.linear: dict[str, LinearSite] = linear_sites(model, self._switch)
        if self._pooler is not None:
            model.pooler = None
        self.residual: dict[str, ResidualSite] = {}
        self.attention: list[AttentionSite] = []
        for layer in range(self.layers):
            block = model.get_submodule(self.family.block.format(i=layer))
            after_attention = ResidualSite(f"layers.{layer}.attention", self._switch)
            after_ffn = ResidualSite(f"layers.{layer}.ffn", self._switch)
            self.family.attach(block, after_attention, after_ffn)
            self.residual[after_attention.name] = after_attention
            self.residual[after_ffn.name] = after_ffn
            site = AttentionSite(layer, self._switch)
            block.get_submodule(self.family.attention).manyhats_site = site
            self.attention.append(site)

    @classmethod
    def load(cls, name: str, *, device: str = "auto", dtype: str = "auto") -> Backbone:
        """Loads what `--backbone NAME` means. Raises ConfigurationError with the reason where it cannot."""
        start = time.perf_counter()
        source = loading.locate(name)
        model, missing = loading.load_model(source)
        place = loading.choose_device(device)
        precision = choose_dtype(dtype, model, place)
        embedding = loading.sentence_embedding(source)
        backbone = cls(
            model,
            Tokenizer(source),
            name=name,
            missing=missing,
            sentence_embedding=embedding,
            device=place,
            dtype=precision,
        )
        logger.info(
            "backbone %s: %s, %.1f M weights, %s on %s, loaded in %.1f s",
            name,
            model.config.model_type,
            sum(p.numel() for p in model.parameters()) / 1e6,
            str(precision).removeprefix("torch."),
            place,
            time.perf_counter() - start,
        )
        return backbone

    # ---- shape

    @cached_property
    def layers(self) -> int:
        """Number of transformer blocks."""
        return int(self.config.num_hidden_layers)

    @cached_property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return int(self.config.hidden_size)

    @cached_property
    def kv_shape(self) -> tuple[int, int]:
        """(key/value heads, head dimension)."""
        heads = int(self.config.num_attention_heads)
        dim = int(getattr(self.config, "head_dim", None) or self.hidden // heads)
        return int(getattr(self.config, "num_key_value_heads", None) or heads), dim

    @cached_property
    def max_tokens(self) -> int:
        """The most tokens of one sequence, special tokens included."""
        return loading.maximum_tokens(self.config, self.family.first_position(self.config))

    @property
    def has_pooler(self) -> bool:
        """Whether the checkpoint carries weights for the pooler."""
        return self._pooler is not None and not self._pooler_missing

    def site_of(self, module: str) -> LinearSite:
        """The linear site that an adapter's key names, with or without the task model's prefix.

        Raises AdapterMismatch where there is none.
        """
        bare = module.removeprefix(self.prefix + ".")
        try:
            return self.linear[bare]
        except KeyError:
            raise AdapterMismatch(
                f"the adapter has weights for '{module}', but the backbone {self.name} "
                f"({self.config.model_type}) has no linear layer of that name",
                param=module,
            ) from None

    # ---- forward

    def pack(
        self,
        sequences: Sequence[Sequence[int]],
        type_ids: Sequence[Sequence[int]],
        *,
        prefixes: Sequence[tuple[int, int]] | None = None,
        shifts: Sequence[int] | None = None,
    ) -> PackedBatch:
        """Lays sequences side by side.

        `prefixes`: for each sequence the rows among the batch's prefix rows that it attends to besides its own
        (see `AttentionLayout`). `shifts`: how far each sequence's positions are moved on.
        """
        lengths = [len(s) for s in sequences]
        starts = [0]
        for length in lengths:
            starts.append(starts[-1] + length)
        first = self.family.first_position(self.config)
        positions = torch.cat(
            [
                torch.arange(first + shift, first + shift + length)
                for length, shift in zip(lengths, shifts or [0] * len(lengths), strict=True)
            ]
        )
        ids = torch.tensor([i for s in sequences for i in s], dtype=torch.long)
        types = None
        if self.family.token_types:
            highest = self.config.type_vocab_size - 1  # RoBERTa has one type, and its tokenizer may name two
            types = torch.tensor([min(t, highest) for s in type_ids for t in s], dtype=torch.long)
        return PackedBatch(
            input_ids=ids.to(self.device),
            type_ids=None if types is None else types.to(self.device),
            position_ids=positions.to(self.device),
            starts=tuple(starts),
            layout=AttentionLayout(
                lengths,
                prefixes or [(0, 0)] * len(lengths),
                causal=False,
                device=self.device,
                dtype=self.dtype,
            ),
        )

    def encode(self, batch: PackedBatch, actors: Actors = NO_ACTORS) -> Tensor:
        """The last hidden states of all tokens, (T, hidden). One pass at a time."""
        inputs = {"input_ids": batch.input_ids[None], "position_ids": batch.position_ids[None]}
        if batch.type_ids is not None:
            inputs["token_type_ids"] = batch.type_ids[None]
        with self._acting(actors):
            for site in self.attention:
                site.layout = batch.layout
            hidden: Tensor = self.model(**inputs).last_hidden_state[0]
        return hidden

    def pool(self, first: Tensor, actors: Actors = NO_ACTORS) -> Tensor:
        """The pooler on the first token's state of every sequence: (S, hidden) to (S, hidden)."""
        if self._pooler is None:
            raise ConfigurationError(f"the backbone {self.name} has no pooler")
        with self._acting(actors):
            pooled: Tensor = self._pooler(first[:, None])
        return pooled

    @contextmanager
    def _acting(self, actors: Actors) -> Iterator[None]:
        assert not self._busy, "two forward passes at once on one backbone"
        self._busy = True
        self._switch.actors = actors
        try:
            yield
        finally:
            self._switch.actors = NO_ACTORS
            self._busy = False
