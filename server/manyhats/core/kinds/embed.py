"""A vector for a text, as sentence-transformers makes it.

What holds for a request are its own parameters, then its task's settings, then what the backbone's folder says.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from manyhats.backbone import Text
from manyhats.backbone.sentence import EVERY_TOKEN, Pooling, SentenceEmbedding, modes_of
from manyhats.core.kinds.base import Answer, Kind, LibraryNames, Output, Parameters, Preparing, Rendered, S, Settings
from manyhats.core.kinds.fields import PoolingSetting
from manyhats.core.sequence import PoolingParams
from manyhats.errors import InvalidRequest

if TYPE_CHECKING:
    from manyhats.backbone import Backbone, Encoded
    from manyhats.methods.bound_adapter import BoundAdapter

_PROMPTS = frozenset({"prompt", "prompt_name"})  # parameters of which only one can be given


class EmbedParameters(Parameters):
    """Left out, the task's own pooling, normalisation and default prompt hold.

    `pooling`: one, or several whose vectors are put side by side; `none` gives every token's state. `prompt` goes
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
        """Pooling, normalisation and prompts, as the backbone's folder says where nothing else does.

        Raises InvalidRequest where nothing says a pooling but the backbone's folder, whose own is not supported.
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
        """What the backbone's sentence-transformers files say; nothing where they are not followed."""
        own = backbone.sentence_embedding
        if own.refused is not None:
            return settings
        pooling = own.pooling if isinstance(own.pooling, str) else list(own.pooling)
        settings = settings.model_copy(update={"pooling": pooling, "normalize": own.normalize})
        settings = _with_backbone(settings, own)
        longest = min(settings.max_tokens or backbone.max_tokens, backbone.max_tokens)
        return settings.model_copy(update={"max_tokens": longest})

    def prefix_length(self, parameters: EmbedParameters, settings: Settings) -> int:
        """The longest prompt's that the request may name."""
        return max(len(parameters.prompt or ""), *(len(prompt) for prompt in (settings.prompts or {}).values()), 0)

    def check_texts(self, texts: Sequence[Text], parameters: EmbedParameters, preparing: Preparing) -> None:
        """Raises InvalidRequest where the dense layer behind the pooling takes vectors of another width."""
        _check_width(_pooling(parameters), preparing.adapter, preparing.backbone)

    def text_transform(self, parameters: EmbedParameters, preparing: Preparing) -> Callable[[Text], Text]:
        """Puts the prompt before a text. Raises InvalidRequest for the name of a prompt that does not exist."""
        settings = preparing.settings
        prompt = _prompt(parameters, settings)
        return lambda text: _with_prompt(text, prompt, settings)

    def pooling_params(
        self, encoded: Sequence[Encoded], parameters: EmbedParameters, preparing: Preparing
    ) -> Sequence[PoolingParams]:
        """How the states become a vector. Raises InvalidRequest for a text of which nothing is left to pool."""
        skip = _unpooled(_prompt(parameters, preparing.settings), preparing)
        for i, one in enumerate(encoded):
            if len(one.ids) <= skip:
                raise InvalidRequest(
                    f"the prompt's {skip} tokens are not pooled, and leave none of the {len(one.ids)} of input {i}",
                    param=f"inputs.{i}",
                )
        return [PoolingParams(_pooling(parameters), skip)] * len(encoded)

    def render(self, output: Output, parameters: EmbedParameters, rendered: Rendered) -> Answer:
        """The vector, of length one where it is normalised. output: (width,), or (tokens, width)."""
        return {"embedding": (_unit(output) if parameters.normalize else output).tolist()}


def _with_backbone(settings: S, own: SentenceEmbedding) -> S:
    """The settings of a task that embeds; what they leave open is as the backbone's folder says.

    An adapter from a sentence-transformers folder leaves nothing open but what its folder does not limit.
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
    """The pooling of parameters that are filled in."""
    pooling = parameters.pooling or "mean"
    return pooling if isinstance(pooling, str) else tuple(pooling)


def _check_width(pooling: Pooling, adapter: BoundAdapter, backbone: Backbone) -> None:
    """Raises InvalidRequest where the dense layer behind the pooling takes vectors of another width."""
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
    """The text that goes before every input; empty where there is none. Raises InvalidRequest for an unknown name."""
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
    """The text, and its pair, as they are tokenised."""
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


def _unit(vectors: Output) -> Output:
    """Vectors of length one; a zero vector stays."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Output = vectors / np.maximum(norms, 1e-12)
    return unit
