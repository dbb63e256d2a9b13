"""The backbone: one frozen model, its sites, and a forward pass over a packed batch."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from manyhats.backbone import loading
from manyhats.backbone.attention import LAYOUT_AS_MASK, AttentionSite, choose_attention_kernels
from manyhats.backbone.attention_layout import AttentionLayout
from manyhats.backbone.families import family_of
from manyhats.backbone.packing import PackedBatch
from manyhats.backbone.precision import cast, choose_dtype
from manyhats.backbone.prepacking import prepack
from manyhats.backbone.sentence import SentenceEmbedding
from manyhats.backbone.sites import (
    EMBEDDED,
    LAST,
    ActorContext,
    Actors,
    LinearSite,
    ModuleSite,
    ResidualSite,
    StatesSite,
    module_sites,
)
from manyhats.backbone.staging import HostBuffers, StagingBuffer
from manyhats.backbone.tokenizer import Tokenizer
from manyhats.backbone.vocabulary import VocabularyHead
from manyhats.errors import AdapterMismatch, ConfigurationError

logger = logging.getLogger(__name__)

NO_ACTORS = Actors()


class Backbone:
    """One frozen transformers model. Its weights are never written to.

    `model` is the bare model; `vocabulary` its language-model head, for those that have one; `end_tokens` end a text.
    `name` is what the operator called it; `sha256` names its checkpoint, where it has one (see `loading.digest`).
    `original` is the unmodified model around the same weights, head included, where it was kept as a reference.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Tokenizer,
        *,
        name: str,
        sha256: str = "",
        vocabulary: VocabularyHead | None = None,
        end_tokens: frozenset[int] = frozenset(),
        missing: frozenset[str] = frozenset(),
        original: PreTrainedModel | None = None,
        sentence_embedding: SentenceEmbedding | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.config = model.config
        self.family = family_of(model.config.model_type)
        self.vocabulary = vocabulary
        self.end_tokens = end_tokens
        self.sha256 = sha256
        self.device = device or torch.device("cpu")
        self.dtype = dtype or torch.float32
        self.sentence_embedding = (sentence_embedding or SentenceEmbedding()).to(self.device, self.dtype)
        for part in (model, None if vocabulary is None else vocabulary.module):
            if part is not None:
                cast(part.eval().requires_grad_(False), self.device, self.dtype)
        # Its weights are the model's and have moved with them; its tables move, and keep their precision.
        self.original = None if original is None else original.eval().to(self.device)
        choose_attention_kernels(self.device)
        self.model = model
        self.prefix: str = model.base_model_prefix
        self._switch = ActorContext()
        self.kept = self._switch.kept  # what methods keep with the backbone between passes, by keys of their own
        self._host_buffers = HostBuffers(self.device)
        self._busy = False
        self._entered = False

        # The pooler reads one row of every sequence; the packed pass keeps all rows, so it is called by itself.
        self._pooler: nn.Module | None = getattr(model, "pooler", None)
        self._pooler_missing = any(name.startswith("pooler.") for name in missing)
        self.family.prepare(model)
        modules = dict(model.named_modules()) | ({} if vocabulary is None else dict(vocabulary.parts))
        own = {name: module for name, module in modules.items() if name not in self.family.shared_tables}
        sites = module_sites(own, self._switch)
        self.linear, self.embedding, self.norm = sites.linear, sites.embedding, sites.norm
        if self._pooler is not None:
            model.pooler = None
        self._attach()

    def _attach(self) -> None:
        """Puts the sites into the blocks; a block that several layers share gets them once."""
        self.residual: dict[str, ResidualSite] = {}
        self._residual_sites: list[ResidualSite] = []
        self._attention_sites: list[AttentionSite] = []
        known: dict[int, tuple[ResidualSite, ResidualSite, AttentionSite]] = {}
        for layer in range(self.layers):
            block = self.model.get_submodule(self._block_name(layer))
            if id(block) not in known:
                after_attention, after_ffn = ResidualSite(self._switch), ResidualSite(self._switch)
                if self.family.attach(block, after_attention, after_ffn):
                    self._residual_sites += [after_attention, after_ffn]
                attention = AttentionSite(block.get_submodule(self.family.attention), self._switch)
                known[id(block)] = after_attention, after_ffn, attention
                self._attention_sites.append(attention)
            after_attention, after_ffn, attention = known[id(block)]
            attention.layers.append(layer)
            for site, place in ((after_attention, "attention"), (after_ffn, "ffn")):
                if site in self._residual_sites:
                    site.names.append(f"layers.{layer}.{place}")
                    self.residual[site.names[-1]] = site
        self._embedded = StatesSite(EMBEDDED, self._switch)
        self._last = StatesSite(LAST, self._switch)
        self.model.get_submodule(self._block_name(0)).register_forward_pre_hook(self._enter, with_kwargs=True)

    def _block_name(self, layer: int) -> str:
        return self.family.block.format(i=self.family.block_of(self.config, layer))

    def _enter(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What enters the first block; a shared block comes by more than once."""
        if self._entered:
            return None
        self._entered = True
        if args:
            return (self._embedded(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": self._embedded(kwargs["hidden_states"])}

    @classmethod
    def load(cls, name: str, *, device: str = "auto", dtype: str = "auto", prepacked: bool = False) -> Backbone:
        """Loads what `--backbone NAME` means. `prepacked`: for serving, see `prepacking`.

        Raises ConfigurationError with the reason where it cannot.
        """
        start = time.perf_counter()
        source = loading.locate(name)
        loaded = loading.load_model(source)
        model = loaded.model
        place = loading.choose_device(device)
        precision = choose_dtype(dtype, model, place)
        width = family_of(model.config.model_type).output_width(model.config)
        embedding = loading.sentence_embedding(source, width)
        backbone = cls(
            model,
            Tokenizer(source),
            name=name,
            sha256=loading.digest(model, loaded.missing, loaded.vocabulary),
            vocabulary=loaded.vocabulary,
            end_tokens=loaded.ends,
            missing=loaded.missing,
            original=loaded.original,
            sentence_embedding=embedding,
            device=place,
            dtype=precision,
        )
        if prepacked:
            prepack(backbone.linear.values())
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
    def output_width(self) -> int:
        """Width of the last hidden states."""
        return self.family.output_width(self.config)

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

    @property
    def has_language_model(self) -> bool:
        """Whether it can continue a text."""
        return self.vocabulary is not None and not self.vocabulary.masked

    @property
    def fills_masks(self) -> bool:
        """Whether it can say what stands behind a mask token."""
        return self.vocabulary is not None and self.vocabulary.masked and self.tokenizer.mask_id is not None

    def in_vocabulary_head(self, site: str) -> bool:
        """Whether a site stands in the language-model head."""
        return self.vocabulary is not None and site in self.vocabulary.parts

    def bare_name(self, module: str) -> str:
        """A module's name in the bare model, for one with or without the task model's prefix.

        Some task models call the bare one otherwise (`transformer` for question answering).
        """
        bare = module.removeprefix(self.prefix + ".")
        inner = bare.partition(".")[2]
        return inner if self.find(bare) is None and self.find(inner) is not None else bare

    def find(self, name: str) -> ModuleSite | None:
        """The site of a module of the bare model that holds parameters."""
        return self.linear.get(name) or self.embedding.get(name) or self.norm.get(name)

    def site_of(self, module: str) -> LinearSite:
        """The linear site that an adapter's key names, with or without the task model's prefix.

        Raises AdapterMismatch where there is none.
        """
        try:
            return self.linear[self.bare_name(module)]
        except KeyError:
            raise self._no_place(module, "linear layer") from None

    def parameter_site(self, module: str) -> ModuleSite:
        """The site of a module that holds parameters. Raises AdapterMismatch where there is none."""
        site = self.find(self.bare_name(module))
        if site is None:
            raise self._no_place(module, "linear layer, embedding or norm")
        return site

    def _no_place(self, module: str, what: str) -> AdapterMismatch:
        if module.removeprefix(self.prefix + ".") in self.family.shared_tables:
            return AdapterMismatch(
                f"the adapter changes '{module}', which {self.config.model_type} models read once for all texts of a "
                "batch; one task cannot have its own",
                param=module,
            )
        return AdapterMismatch(
            f"the adapter has weights for '{module}', but the backbone {self.name} "
            f"({self.config.model_type}) has no {what} of that name",
            param=module,
        )

    # ---- forward

    def staging(self) -> StagingBuffer:
        """An empty buffer for what a pass needs on the device. Passes are laid out in one thread at a time."""
        return StagingBuffer(self._host_buffers)

    def encode(self, batch: PackedBatch, actors: Actors = NO_ACTORS) -> Tensor:
        """The last hidden states of all rows, (T, width). One pass at a time."""
        shape = (1, -1) if batch.padded is None else (-1, batch.padded)
        inputs: dict[str, Any] = {
            "input_ids": batch.input_ids.view(shape),
            "position_ids": batch.position_ids.view(shape),
        }
        if batch.padded is not None:
            inputs["attention_mask"] = batch.padding_mask
        if batch.type_ids is not None:
            inputs["token_type_ids"] = batch.type_ids.view(shape)
        if self.family.causal:
            inputs |= {"use_cache": False, "attention_mask": LAYOUT_AS_MASK}
        with self._acting(actors, batch.layout):
            hidden: Tensor = self._last(self.model(**inputs).last_hidden_state)
        return hidden.flatten(0, 1)

    def pool(self, first: Tensor, actors: Actors = NO_ACTORS) -> Tensor:
        """The pooler on the first row's state of every sequence: (S, hidden) to (S, hidden)."""
        if self._pooler is None:
            raise ConfigurationError(f"the backbone {self.name} has no pooler")
        with self._acting(actors):
            if isinstance(self._pooler, nn.Linear):  # ALBERT's activation stands beside it
                return self.model.pooler_activation(self._pooler(first))  # type: ignore[no-any-return]
            pooled: Tensor = self._pooler(first[:, None])
        return pooled

    def vocabulary_logits(self, states: Tensor, actors: Actors = NO_ACTORS) -> Tensor:
        """The language-model head: (S, hidden) to (S, vocabulary)."""
        if self.vocabulary is None:
            raise ConfigurationError(f"the backbone {self.name} has no language-model head")
        with self._acting(actors):
            logits: Tensor = self.vocabulary.module(states)
        return logits

    @contextmanager
    def _acting(self, actors: Actors, layout: AttentionLayout | None = None) -> Iterator[None]:
        assert not self._busy, "two forward passes at once on one backbone"
        self._busy = True
        actors.start()
        self._switch.actors = actors
        self._entered = False
        for residual in self._residual_sites:
            residual.begin()
        for attention in self._attention_sites:
            attention.begin(layout)
        try:
            yield
        finally:
            actors.stop()
            self._switch.actors = NO_ACTORS
            self._busy = False
