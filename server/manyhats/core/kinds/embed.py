"""A vector for a text, as sentence-transformers makes it.

A request's parameters take precedence, then its task's settings, then those in the backbone's folder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from manyhats.backbone import Text
from manyhats.backbone.sentence import EVERY_TOKEN, Pooling, SentenceEmbedding, modes_of
from manyhats.core.kinds.base import Answer, Kind, LibraryNames, Output, Parameters, Preparing, Rendered, S, Settings
from manyhats.core.kinds.examples import Columns, EncodedExample, Example, NonEmptyText, TextRow, encode_texts
from manyhats.core.kinds.fields import PoolingSetting
from manyhats.core.kinds.metrics import Metric, Score, share
from manyhats.core.kinds.training import KindTraining, TargetScale
from manyhats.core.sequence import PoolingParams
from manyhats.core.vectors import unit_vectors
from manyhats.errors import InvalidRequest

if TYPE_CHECKING:
    from manyhats.backbone import Backbone, Encoded
    from manyhats.methods.bound_adapter import BoundAdapter

_PROMPTS = frozenset({"prompt", "prompt_name"})  # mutually exclusive parameters


class EmbedParameters(Parameters):
    """Default to the task's pooling, normalisation and default prompt.

    `pooling`: one, or several whose vectors are concatenated; `none` returns every token's state. `prompt` is put
    before the text, `prompt_name` names one of the task's; an empty prompt is none.
    """

    pooling: PoolingSetting | None = None
    normalize: bool | None = None
    prompt: Annotated[str, Field(max_length=20_000)] | None = None
    prompt_name: Annotated[str, Field(max_length=1000)] | None = None

    @model_validator(mode="after")
    def _one_prompt(self) -> EmbedParameters:
        if self.prompt is not None and self.prompt_name is not None:
            raise ValueError("either prompt or prompt_name")
        return self


class Embed(Kind[EmbedParameters]):
    """The last hidden states, pooled to one vector."""

    name = "embed"
    fields = (("embedding", "numbers"),)
    parameters = EmbedParameters
    settings = ("prompts", "default_prompt_name", "include_prompt", "lower_case")
    bare_parameters = frozenset({"pooling", "normalize"}) | _PROMPTS
    libraries = LibraryNames(peft="FEATURE_EXTRACTION", model_classes=("Model",), pipeline="sentence-similarity")

    def check_settings(self, partial: Mapping[str, Any], prompts: Collection[str]) -> None:
        """Raises InvalidRequest for a default prompt that does not exist."""
        name, known = partial.get("default_prompt_name"), {*prompts, *(partial.get("prompts") or ())}
        if name is not None and name not in known:
            raise InvalidRequest(
                f"there is no prompt '{name[:100]}'; there are {', '.join(sorted(known)[:20]) or 'none'}",
                param="default_prompt_name",
            )

    def merge_parameters(self, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """The request's prompt replaces the task's, whichever of the two parameters names it."""
        if given.keys() & _PROMPTS:
            defaults = {name: value for name, value in defaults.items() if name not in _PROMPTS}
        return super().merge_parameters(defaults, given)

    def complete(
        self, parameters: EmbedParameters, settings: S, backbone: Backbone, num_labels: int | None
    ) -> tuple[EmbedParameters, S]:
        """Fills in pooling, normalisation and prompts, at last from the backbone's folder.

        Raises InvalidRequest where only the backbone's folder states a pooling, and it is not supported.
        """
        own = backbone.sentence_embedding
        settings = _with_backbone(settings, own)
        pooling = parameters.pooling or settings.pooling
        if pooling is None and own.refused is not None:
            raise InvalidRequest(f"{own.refused}; say parameters.pooling", param="parameters.pooling")
        normalize = parameters.normalize if parameters.normalize is not None else settings.normalize
        filled = {"pooling": pooling or own.pooling, "normalize": own.normalize if normalize is None else normalize}
        return parameters.model_copy(update=filled), settings

    def bare_settings(self, settings: S, backbone: Backbone) -> S:
        """The settings in the backbone's sentence-transformers files; none where they are not supported."""
        own = backbone.sentence_embedding
        if own.refused is not None:
            return settings
        pooling = own.pooling if isinstance(own.pooling, str) else list(own.pooling)
        settings = settings.model_copy(update={"pooling": pooling, "normalize": own.normalize})
        settings = _with_backbone(settings, own)
        longest = min(settings.max_tokens or backbone.max_tokens, backbone.max_tokens)
        return settings.model_copy(update={"max_tokens": longest})

    def prefix_length(self, parameters: EmbedParameters, settings: Settings) -> int:
        """The length of the longest prompt that the request may use."""
        return max(len(parameters.prompt or ""), *(len(prompt) for prompt in (settings.prompts or {}).values()), 0)

    def check_texts(self, texts: Sequence[Text], parameters: EmbedParameters, preparing: Preparing) -> None:
        """Raises InvalidRequest where the dense layer after the pooling has another input width."""
        _check_width(_pooling(parameters), preparing.adapter, preparing.backbone)

    def text_transform(self, parameters: EmbedParameters, preparing: Preparing) -> Callable[[Text], Text]:
        """Puts the prompt before a text. Raises InvalidRequest for the name of a prompt that does not exist."""
        settings = preparing.settings
        prompt = _prompt(parameters, settings)
        return lambda text: _with_prompt(text, prompt, settings)

    def pooling_params(
        self, encoded: Sequence[Encoded], parameters: EmbedParameters, preparing: Preparing
    ) -> Sequence[PoolingParams]:
        """How the states are pooled. Raises InvalidRequest for a text without tokens to pool."""
        skip = _unpooled(_prompt(parameters, preparing.settings), preparing)
        for i, one in enumerate(encoded):
            if len(one.ids) <= skip:
                raise InvalidRequest(
                    f"the prompt's {skip} tokens are not pooled, and leave none of the {len(one.ids)} of input {i}",
                    param=f"inputs.{i}",
                )
        return [PoolingParams(_pooling(parameters), skip)] * len(encoded)

    def render(self, output: Output, parameters: EmbedParameters, rendered: Rendered) -> Answer:
        """The vector as an array, of length one where it is normalised. output: (width,), or (tokens, width)."""
        return {"embedding": unit_vectors(output) if parameters.normalize else output}

    def agrees(self, answer: Answer, other: Answer, tolerance: float) -> bool:
        """Vectors, or every token's, whose cosine differs from 1 by no more than the tolerance."""
        one, another = np.atleast_2d(answer["embedding"]), np.atleast_2d(other["embedding"])
        if one.shape != another.shape:
            return False
        cosines = (unit_vectors(one) * unit_vectors(another)).sum(-1)
        return bool((cosines >= 1 - tolerance).all())


def _with_backbone(settings: S, own: SentenceEmbedding) -> S:
    """The settings of a task that embeds, with defaults from the backbone's folder.

    An adapter from a sentence-transformers folder has its own, except for limits that it does not set.
    """
    if not own.stated or own.refused is not None:
        return settings
    filled: dict[str, Any] = {}
    if settings.prompts is None:
        filled["prompts"] = dict(own.prompts)
        if settings.default_prompt_name is None:
            filled["default_prompt_name"] = own.default_prompt_name
    if settings.include_prompt is None:
        filled["include_prompt"] = own.include_prompt
    if settings.lower_case is None:
        filled["lower_case"] = own.lower_case
    if settings.max_tokens is None and settings.overflow is None:
        filled |= {"max_tokens": own.max_tokens, "overflow": "truncate"}
    return settings.model_copy(update=filled)


def _pooling(parameters: EmbedParameters) -> Pooling:
    """The pooling of completed parameters."""
    pooling = parameters.pooling or "mean"
    return pooling if isinstance(pooling, str) else tuple(pooling)


def _check_width(pooling: Pooling, adapter: BoundAdapter, backbone: Backbone) -> None:
    """Raises InvalidRequest where the dense layer after the pooling has another input width."""
    if pooling == EVERY_TOKEN:
        return
    projection = backbone.sentence_embedding.projection if adapter.projection is None else adapter.projection
    width = len(modes_of(pooling)) * backbone.output_width
    if projection.width not in (None, width):
        raise InvalidRequest(
            f"the pooling {'+'.join(modes_of(pooling))} gives {width} numbers, but the layer behind it takes "
            f"{projection.width}",
            param="parameters.pooling",
        )


def _prompt(parameters: EmbedParameters, settings: Settings) -> str:
    """The text put before every input; empty without a prompt. Raises InvalidRequest for an unknown name."""
    if parameters.prompt is not None:
        return parameters.prompt
    prompts: Mapping[str, str] = settings.prompts or {}
    name = parameters.prompt_name if parameters.prompt_name is not None else settings.default_prompt_name
    if name is None:
        return ""
    if name not in prompts:
        known = ", ".join(map(repr, list(prompts)[:20])) or "none"
        raise InvalidRequest(f"there is no prompt '{name[:100]}'; there are {known}", param="parameters.prompt_name")
    return prompts[name]


def _with_prompt(text: Text, prompt: str, settings: Settings) -> Text:
    """The text, and its pair, with the prompt."""
    first, pair = prompt + text.text, text.pair
    if settings.lower_case:
        first, pair = first.lower(), None if pair is None else pair.lower()
    return Text(first, pair)


def _unpooled(prompt: str, preparing: Preparing) -> int:
    """How many tokens at the beginning belong to a prompt that is not pooled, as sentence-transformers counts them."""
    if not prompt or preparing.settings.include_prompt is not False:
        return 0
    tokenizer = preparing.backbone.tokenizer
    (encoded,) = tokenizer.encode([_with_prompt(Text(""), prompt, preparing.settings)], preparing.max_tokens)
    ends_special = bool(encoded.ids) and encoded.ids[-1] in tokenizer.loaded.all_special_ids
    return len(encoded.ids) - ends_special


# Of the cosine between two texts that belong together (Gao et al. 2021, section 3: 0.05).
_TEMPERATURE = 0.05


class PairRow(TextRow):
    """Two texts that belong together."""

    pair: NonEmptyText

    def example(self) -> Example:
        return Example(self.text, self.pair, (), "")


class EmbedTraining(KindTraining):
    """A vector for a text, trained to be nearest to its pair's among those of the batch, in both directions (InfoNCE;
    van den Oord et al. 2018)."""

    name = "embed"
    served_as = Embed()
    row = PairRow
    batch_from_rows = False
    metric = Metric("own pair found first", "accuracy", proportion=True, more_is_better=True)

    def columns(self, columns: Columns) -> dict[str, str]:
        return {"text": columns.text, "pair": columns.text_pair or "pair"}

    def check_backbone(self, backbone: Backbone) -> None:
        backbone.sentence_embedding.check()

    def encode(
        self,
        examples: Sequence[Example],
        labels: Sequence[str],
        backbone: Backbone,
        max_tokens: int,
        template: str | None = None,
    ) -> list[EncodedExample]:
        """Both texts of a pair, each as an example."""

        def encode(texts: list[str]) -> list[EncodedExample]:
            bare = [Example(text, None, (), "") for text in texts]
            return encode_texts(bare, [0] * len(bare), backbone, max_tokens)

        others = encode([example.pair or "" for example in examples])
        return [
            replace(one, other=other, truncated=one.truncated or other.truncated)
            for one, other in zip(encode([example.text for example in examples]), others, strict=True)
        ]

    def inputs(self, examples: Sequence[EncodedExample]) -> list[list[EncodedExample]]:
        return [list(examples), [example.other for example in examples if example.other is not None]]

    def loss(
        self,
        outputs: Sequence[Tensor],
        batch: Sequence[EncodedExample],
        weights: Tensor | None = None,
        scale: TargetScale | None = None,
    ) -> Tensor:
        one, other = (torch.stack(list(side)).float() for side in (outputs[: len(batch)], outputs[len(batch) :]))
        cosines = F.normalize(one, dim=-1) @ F.normalize(other, dim=-1).T / _TEMPERATURE
        own = torch.arange(len(one), device=one.device)
        return (F.cross_entropy(cosines, own) + F.cross_entropy(cosines.T, own)) / 2

    def score(self, outputs: Sequence[Tensor], examples: Sequence[EncodedExample]) -> Score:
        """The share of texts whose own pair is nearest among all of the data, by cosine."""
        count = len(examples)
        if not count:
            return Score(self.metric, math.nan, 0)
        others = self.inputs(examples)[1]
        one, other = (F.normalize(torch.stack(list(side)), dim=-1) for side in (outputs[:count], outputs[count:]))
        nearest = (one @ other.T).argmax(-1).tolist()
        right = sum(others[n].ids == own.ids for n, own in zip(nearest, others, strict=True))
        return Score(self.metric, right / count, count)

    def questions(self, examples: Sequence[Example]) -> list[Text]:
        return [Text(e.text) for e in examples] + [Text(e.pair or "") for e in examples]

    def judged(self, answers: Sequence[Answer], examples: Sequence[Example]) -> Score:
        vectors = np.array([np.asarray(answer["embedding"]) for answer in answers])
        if vectors.ndim != 2:
            raise InvalidRequest("the task's pooling is 'none', whose vectors cannot be judged", param="pooling")
        one, other = unit_vectors(vectors[: len(examples)]), unit_vectors(vectors[len(examples) :])
        nearest = (one @ other.T).argmax(-1).tolist()
        return share(self.metric, [examples[n].pair == own.pair for n, own in zip(nearest, examples, strict=True)])

    def settings(self, backbone: Backbone) -> Mapping[str, Any]:
        """Without prompts, as in training."""
        own = backbone.sentence_embedding
        changes_texts = own.default_prompt_name is not None or own.lower_case
        return {"prompts": {}, "lower_case": False} if changes_texts else {}
