"""What holds for a request for embeddings: its own parameters, its task's settings, then the backbone's own way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from manyhats.backbone import Backbone, Text
from manyhats.backbone.sentence import EVERY_TOKEN, Pooling, SentenceEmbedding, modes_of
from manyhats.core.sequence import PoolingParams
from manyhats.errors import InvalidRequest
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.registry.records import TaskSettings
from manyhats.serving.inputs import Prepared, prepare
from manyhats.serving.parameters import EmbedParameters

_OF_EMBEDDINGS = ("prompts", "default_prompt_name", "include_prompt", "lower_case")


def with_backbone(settings: TaskSettings, own: SentenceEmbedding) -> TaskSettings:
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


def with_pooling(parameters: EmbedParameters, settings: TaskSettings, own: SentenceEmbedding) -> EmbedParameters:
    """The parameters with pooling and normalisation filled in.

    Raises InvalidRequest where nothing says a pooling but the backbone's folder, whose own is not supported.
    """
    said = parameters.pooling or settings.pooling
    if said is None and own.refused is not None:
        raise InvalidRequest(f"{own.refused}; say parameters.pooling", param="parameters.pooling")
    normalize = parameters.normalize if parameters.normalize is not None else settings.normalize
    return parameters.model_copy(
        update={"pooling": said or own.pooling, "normalize": own.normalize if normalize is None else normalize}
    )


def settings_of_base(backbone: Backbone) -> TaskSettings:
    """What the backbone's sentence-transformers files say, as settings; none where they are not followed."""
    own = backbone.sentence_embedding
    if own.refused is not None:
        return TaskSettings()
    pooling = own.pooling if isinstance(own.pooling, str) else list(own.pooling)
    said = with_backbone(TaskSettings.model_validate({"pooling": pooling, "normalize": own.normalize}), own)
    longest = min(said.max_tokens or backbone.max_tokens, backbone.max_tokens)
    return said.model_copy(update={"max_tokens": longest})


def check_embedding_settings(partial: Mapping[str, Any], kind: str, known: Iterable[str]) -> None:
    """Raises InvalidRequest for settings of embeddings alone where the task is of another kind, or an unknown prompt.

    `partial`: what is set; `known`: the prompts that there are besides those that it brings.
    """
    given = next((name for name in _OF_EMBEDDINGS if partial.get(name) is not None), None)
    if given is not None and kind != "embed":
        raise InvalidRequest(f"{given} is for tasks of kind 'embed'; this one is of kind '{kind}'", param=given)
    name, prompts = partial.get("default_prompt_name"), {*known, *(partial.get("prompts") or ())}
    if name is not None and name not in prompts:
        raise InvalidRequest(
            f"there is no prompt '{name[:100]}'; there are {', '.join(sorted(prompts)[:20]) or 'none'}",
            param="default_prompt_name",
        )


def prepare_embeddings(
    texts: Sequence[Text],
    parameters: EmbedParameters,
    settings: TaskSettings,
    adapter: BoundAdapter,
    backbone: Backbone,
    *,
    max_tokens: int,
    truncate: bool,
) -> tuple[Prepared, PoolingParams]:
    """Texts with their prompt before them, and how their states become a vector.

    `parameters` and `settings` are filled in. Raises as `prepare`, and InvalidRequest for an unknown prompt, a pooling
    that the layer behind it does not take, and a text of which nothing is left to pool.
    """
    pooling = _pooling(parameters)
    _check_width(pooling, adapter, backbone)
    prompt = _prompt(parameters, settings)
    prepared = prepare(
        backbone.tokenizer,
        texts,
        template=settings.template,
        max_tokens=max_tokens,
        truncate=truncate,
        change=lambda text: _with_prompt(text, prompt, settings),
    )
    skip = _unpooled(prompt, settings, backbone, max_tokens)
    for i, encoded in enumerate(prepared.encoded):
        if len(encoded.ids) <= skip:
            raise InvalidRequest(
                f"the prompt's {skip} tokens are not pooled, and leave none of the {len(encoded.ids)} of input {i}",
                param=f"inputs.{i}",
            )
    return prepared, PoolingParams(pooling, skip)


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


def _prompt(parameters: EmbedParameters, settings: TaskSettings) -> str:
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


def _with_prompt(text: Text, prompt: str, settings: TaskSettings) -> Text:
    """The text, and its pair, as they are tokenised."""
    first, pair = prompt + text.text, text.pair
    if settings.lower_case:
        first, pair = first.lower(), None if pair is None else pair.lower()
    return Text(first, pair)


def _unpooled(prompt: str, settings: TaskSettings, backbone: Backbone, max_tokens: int) -> int:
    """How many tokens at the beginning belong to a prompt that is not pooled, as sentence-transformers counts them."""
    if not prompt or settings.include_prompt is not False:
        return 0
    tokenizer = backbone.tokenizer
    (encoded,) = tokenizer.encode([_with_prompt(Text(""), prompt, settings)], max_tokens)
    ends = bool(encoded.ids) and encoded.ids[-1] in tokenizer.loaded.all_special_ids
    return len(encoded.ids) - ends
