"""The backbone: one frozen model with its tokenizer, its sites and the passes over it."""

from __future__ import annotations

import logging
import time

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from manyhats.backbone import loading
from manyhats.backbone.attention import choose_attention_kernels
from manyhats.backbone.block_sites import BlockSites
from manyhats.backbone.digest import checkpoint_digest, named_weights
from manyhats.backbone.families import family_of
from manyhats.backbone.forward import NO_ACTORS, ForwardPass
from manyhats.backbone.names import SiteNames
from manyhats.backbone.packed_batch import PackedBatch
from manyhats.backbone.precision import cast, choose_dtype
from manyhats.backbone.prepacking import prepack
from manyhats.backbone.quantization import NONE, check_quantization, quantized_linears
from manyhats.backbone.sentence import SentenceEmbedding
from manyhats.backbone.shape import ModelShape
from manyhats.backbone.sites import ActorContext, Actors, LinearSite, ModuleSite, module_sites
from manyhats.backbone.staging import HostBuffers, StagingBuffer
from manyhats.backbone.task_heads import task_heads_of
from manyhats.backbone.tokenizer import Tokenizer
from manyhats.backbone.varlen_check import choose_varlen_attention
from manyhats.backbone.vocabulary import VocabularyHead
from manyhats.errors import ConfigurationError

logger = logging.getLogger(__name__)


class Backbone:
    """One frozen transformers model. Its weights are never written to.

    `model`: the bare model; `vocabulary`: its language-model head, if it has one. `name`: as given by the operator;
    `sha256`: of its checkpoint, if it has one (see `backbone.digest`). `eos_token_ids`: the tokens that end a text.
    `original` is the unmodified model around the same weights, head included, where it was kept as a reference.
    `shape` has the model's sizes, which are attributes here too; `task_heads` how transformers builds its heads.
    `linear`, `embedding`, `norm`, `residual`: its sites by name; `joined`: linear sites that can be one product;
    `shared`: the names of those that read the same rows, group by group.
    `compiles_products`: whether passes are quicker with few different numbers of rows (see `backbone.filler`).
    `kept`: objects that methods keep with the backbone between passes, by keys of their own.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Tokenizer,
        *,
        name: str,
        sha256: str = "",
        vocabulary: VocabularyHead | None = None,
        eos_token_ids: frozenset[int] = frozenset(),
        missing: frozenset[str] = frozenset(),
        original: PreTrainedModel | None = None,
        sentence_embedding: SentenceEmbedding | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        quantization: str = NONE,
    ) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.config = model.config
        self.family = family = family_of(model.config.model_type)
        self.task_heads = task_heads_of(model.config.model_type, causal=family.causal)
        self.shape = shape = ModelShape.of(model.config, family)
        self.layers, self.hidden, self.output_width = shape.layers, shape.hidden, shape.output_width
        self.kv_shape, self.max_tokens = shape.kv_shape, shape.max_tokens
        self.vocabulary = vocabulary
        self.eos_token_ids = eos_token_ids
        self.sha256 = sha256
        self.device = device or torch.device("cpu")
        self.dtype = dtype or torch.float32
        self.sentence_embedding = (sentence_embedding or SentenceEmbedding()).to(self.device, self.dtype)
        models = [model] if original is None else [model, original]
        with quantized_linears(models, family.block.split("{i}")[0], quantization, self.device, self.dtype):
            for part in (model, None if vocabulary is None else vocabulary.module):
                if part is not None:
                    cast(part.eval().requires_grad_(False), self.device, self.dtype)
            # Its weights are the model's, already moved; its tables are moved here, and keep their precision.
            self.original = None if original is None else original.eval().to(self.device)
        choose_attention_kernels(self.device)
        heads = int(model.config.num_attention_heads)
        self.varlen_attention = (
            choose_varlen_attention(self.device, self.dtype, heads, shape.kv_shape, causal=family.causal)
            if family.packed
            else None
        )
        self.model = model
        self.prefix: str = model.base_model_prefix
        self._host_buffers = HostBuffers(self.device)

        # The pooler reads one row of every sequence, so it is called separately from the packed pass.
        self.pooler: nn.Module | None = getattr(model, "pooler", None)
        pooler_missing = any(name.startswith("pooler.") for name in missing)
        self.has_pooler = self.pooler is not None and not pooler_missing  # with weights in the checkpoint
        family.prepare(model)
        context = ActorContext()
        self.kept = context.kept
        modules = dict(model.named_modules()) | ({} if vocabulary is None else dict(vocabulary.parts))
        own = {name: module for name, module in modules.items() if name not in family.shared_tables}
        sites = module_sites(own, context)
        self.linear, self.embedding, self.norm = sites.linear, sites.embedding, sites.norm
        self._names = SiteNames(sites, self.prefix, family.shared_tables)
        if self.pooler is not None:
            model.pooler = None
        blocks = BlockSites(model, family, self.layers, context)
        self.residual, self.joined, self.shared = blocks.residual, blocks.joined, blocks.shared
        self._forward = ForwardPass(model, family, blocks, context)
        self.compiles_products = False

    @classmethod
    def load(
        cls,
        name: str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        prepacked: bool = False,
        quantization: str = NONE,
    ) -> Backbone:
        """Loads what `--backbone NAME` means. `prepacked`: for serving, see `prepacking`. `quantization`: of its
        weights, `int8` or `fp8`; see there.

        Raises ConfigurationError where it cannot be loaded.
        """
        start = time.perf_counter()
        source = loading.locate(name)
        chosen = loading.choose_device(device)
        check_quantization(quantization, chosen)  # before minutes of loading
        loaded = loading.load_model(source)
        model = loaded.model
        sha256 = checkpoint_digest(named_weights(model, loaded.missing, loaded.vocabulary), loaded.stamps)
        precision = choose_dtype(dtype, model, chosen)
        check_quantization(quantization, chosen, precision)
        width = family_of(model.config.model_type).output_width(model.config)
        embedding = loading.sentence_embedding(source, width)
        backbone = cls(
            model,
            Tokenizer(source),
            name=name,
            sha256=sha256,
            vocabulary=loaded.vocabulary,
            eos_token_ids=loaded.eos_token_ids,
            missing=loaded.missing,
            original=loaded.original,
            sentence_embedding=embedding,
            device=chosen,
            dtype=precision,
            quantization=quantization,
        )
        if prepacked:
            backbone.compiles_products = prepack(backbone.linear.values(), backbone.joined) > 0
        logger.info(
            "backbone %s: %s, %.1f M weights, %s%s on %s, loaded in %.1f s",
            name,
            model.config.model_type,
            sum(p.numel() for p in model.parameters()) / 1e6,
            str(precision).removeprefix("torch."),
            "" if quantization == NONE else f" with linear layers in {quantization}",
            chosen,
            time.perf_counter() - start,
        )
        return backbone

    @property
    def has_language_model(self) -> bool:
        """Whether it has a causal language-model head."""
        return self.vocabulary is not None and not self.vocabulary.masked

    @property
    def fills_masks(self) -> bool:
        """Whether it has a masked language-model head."""
        return self.vocabulary is not None and self.vocabulary.masked and self.tokenizer.mask_id is not None

    # ---- names

    def in_vocabulary_head(self, site: str) -> bool:
        """Whether a site is in the language-model head."""
        return self.vocabulary is not None and site in self.vocabulary.parts

    def bare_name(self, module: str) -> str:
        """A module's name in the bare model, for one with or without the task model's prefix."""
        return self._names.bare_name(module)

    def find(self, name: str) -> ModuleSite | None:
        """The site of a module of the bare model that holds parameters; None where there is none."""
        return self._names.find(name)

    def site_of(self, module: str) -> LinearSite:
        """The site of a linear layer, named with or without the task model's prefix.

        Raises UnknownSite where there is none.
        """
        return self._names.linear(module)

    def parameter_site(self, module: str) -> ModuleSite:
        """The site of a module that holds parameters, named in the same way. Raises UnknownSite where there is none."""
        return self._names.parameters(module)

    # ---- passes

    def staging(self) -> StagingBuffer:
        """An empty staging buffer for a pass. Only one thread at a time may prepare passes."""
        return StagingBuffer(self._host_buffers)

    def encode(self, batch: PackedBatch, actors: Actors = NO_ACTORS) -> Tensor:
        """The last hidden states of all rows, (T, width). One pass at a time."""
        return self._forward.encode(batch, actors)

    def pool(self, first: Tensor, actors: Actors = NO_ACTORS) -> Tensor:
        """The pooler on the first row's state of every sequence: (S, hidden) to (S, hidden)."""
        if self.pooler is None:
            raise ConfigurationError(f"the backbone {self.name} has no pooler")
        return self._forward.pool(self.pooler, first, actors)

    def vocabulary_logits(self, states: Tensor, actors: Actors = NO_ACTORS) -> Tensor:
        """The language-model head: (S, hidden) to (S, vocabulary)."""
        if self.vocabulary is None:
            raise ConfigurationError(f"the backbone {self.name} has no language-model head")
        return self._forward.vocabulary_logits(self.vocabulary.module, states, actors)
