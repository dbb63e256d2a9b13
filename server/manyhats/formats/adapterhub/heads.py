"""AdapterHub's heads: flexible ones by `head_config.json`, and the model's own ("static") heads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyhats.core.kinds.embed import Embed
from manyhats.core.kinds.registry import HEADLESS, KINDS, check_head
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.formats.adapterhub.names import HEAD_CONFIG, HEAD_WEIGHTS
from manyhats.formats.files import read_json
from manyhats.formats.heads import family_head, with_own_kind
from manyhats.formats.kinds import adapterhub_head_types, kind_of_class
from manyhats.formats.wrappers import open_tensors
from manyhats.messages import short_repr
from manyhats.methods.heads import Head, KindName, Layer, Reads
from manyhats.methods.libraries.equal_weights import equal_weights
from manyhats.methods.libraries.fields import flag, reject_fields
from manyhats.methods.libraries.unclaimed import UnclaimedTensors

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

_HEAD_TYPES = adapterhub_head_types()
# Further fields of a head's config, none of which changes answers.
_IGNORED_FIELDS = {
    "head_type", "num_labels", "layers", "activation_function", "use_pooler", "label2id", "bias", "dropout_prob",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class HeadFile:
    """What a head's files hold. `matched`: how many tensors were used."""

    head: Head | None
    kind: KindName
    settings: Mapping[str, Any] = field(default_factory=dict)
    matched: int = 0
    warnings: tuple[str, ...] = ()


def without_head(model_classes: Iterable[str]) -> HeadFile:
    """The kind of an adapter without a head file: its model class's, else `embed`, with a warning."""
    classes = set(model_classes)
    # No class name where the adapter was not trained in one.
    kinds = {kind_of_class(name) if name else Embed.name for name in classes}
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind in HEADLESS:
        return HeadFile(None, kind)
    warning = "there is no head; the adapter embeds, where `kind` says nothing else"
    return HeadFile(None, Embed.name, warnings=(warning,))


def read_head(folder: Path, backbone: Backbone) -> HeadFile:
    """Reads `head_config.json` and `model_head.safetensors`. Raises AdapterMismatch or InvalidRequest."""
    outer = read_json(folder / HEAD_CONFIG)
    unclaimed = open_tensors(folder / HEAD_WEIGHTS)
    static = outer.get("config") is None
    head = _static(unclaimed, outer, backbone) if static else _flexible(unclaimed, outer, backbone)
    return replace(head, warnings=unclaimed.warnings)


def _flexible(unclaimed: UnclaimedTensors, outer: Mapping[str, Any], backbone: Backbone) -> HeadFile:
    """A flexible head, built by the library from the config."""
    config = outer.get("config")
    head_type = config.get("head_type") if isinstance(config, dict) else config
    if not isinstance(config, dict) or not isinstance(head_type, str) or head_type not in _HEAD_TYPES:
        raise AdapterMismatch(
            f"the head type {short_repr(head_type)} is not supported; these are: {', '.join(_HEAD_TYPES)}",
            param="head_type",
        )
    reject_fields(config, _IGNORED_FIELDS, " of the head")
    kind = _HEAD_TYPES[head_type]
    head = Head(kind, _reads(kind, config, backbone), _layers(unclaimed, outer, config))
    unclaimed.check_all_claimed()
    check_head(head, backbone)
    if head_type == "classification":
        head = with_own_kind(head)
    settings: dict[str, Any] = {}
    if KINDS[head.kind].labelled:
        settings = _labels(config.get("label2id"))
    if head_type == "multilabel_classification":
        settings["defaults"] = {"multi_label": True}
    return HeadFile(head, head.kind, settings, unclaimed.claimed)


def _reads(kind: KindName, config: Mapping[str, Any], backbone: Backbone) -> Reads:
    if not KINDS[kind].over_text:
        return "tokens"
    if flag(config, "use_pooler"):
        return "pooler"
    return "last" if backbone.family.causal else "first"


def _layers(unclaimed: UnclaimedTensors, outer: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[Layer, ...]:
    """nn.Sequential of dropout, linear, activation, ...: the linear layers by rising index."""
    prefix = f"heads.{outer.get('name')}."
    pattern = re.compile(re.escape(prefix) + r"(0|[1-9][0-9]{0,3})\.weight")
    indices = sorted(int(m[1]) for name in unclaimed.names() if (m := pattern.fullmatch(name)))
    between = config.get("activation_function")
    if len(indices) > 1 and not isinstance(between, str):
        raise InvalidRequest(
            f"activation_function of {HEAD_CONFIG} must be a name, not {short_repr(between)}",
            param="activation_function",
        )
    layers: list[Layer] = []
    for position, index in enumerate(indices):
        weight = unclaimed.claim(f"{prefix}{index}.weight")
        last = position + 1 == len(indices)
        layers.append(Layer(weight, unclaimed.claim_optional(f"{prefix}{index}.bias"), None if last else between))
    if not layers:
        raise InvalidRequest(f"{HEAD_WEIGHTS} has no tensor '{prefix}<n>.weight'", param="model_head")
    if len(layers) != config.get("layers"):
        raise InvalidRequest(
            f"{HEAD_CONFIG} says {short_repr(config.get('layers'))} layers, {HEAD_WEIGHTS} holds {len(layers)}",
            param="layers",
        )
    return tuple(layers)


def _static(unclaimed: UnclaimedTensors, outer: Mapping[str, Any], backbone: Backbone) -> HeadFile:
    """A static head, which is a part of the model class."""
    model_class = str(outer.get("model_class"))
    kind = kind_of_class(model_class)
    if kind is None or KINDS[kind].ends_in_states:
        raise AdapterMismatch(f"the head of a {short_repr(model_class)} is not supported", param="model_class")
    if KINDS[kind].lm_head:
        _check_language_model(unclaimed, backbone)
        unclaimed.check_all_claimed()
        return HeadFile(None, kind, matched=unclaimed.claimed)
    head = family_head(unclaimed, "", kind, backbone)
    unclaimed.check_all_claimed()
    if head is None:
        raise AdapterMismatch(f"{HEAD_WEIGHTS} has no head of a {model_class}", param="model_head")
    check_head(head, backbone)
    head = with_own_kind(head)
    settings = _labels(outer.get("label2id")) if KINDS[head.kind].labelled else {}
    return HeadFile(head, head.kind, settings, unclaimed.claimed)


def _check_language_model(unclaimed: UnclaimedTensors, backbone: Backbone) -> None:
    """Raises AdapterMismatch for a trained language-model head; the library saves the model's own with every
    adapter."""
    if backbone.vocabulary is None:
        raise AdapterMismatch(
            f"the adapter is for a language-model head, but the backbone {backbone.name} has none", param="model_class"
        )
    own = {
        f"{name}.{leaf}": parameter
        for name, module in backbone.vocabulary.parts.items()
        for leaf, parameter in module.named_parameters(recurse=False)
    }
    for name in unclaimed.names():
        if name in own and not equal_weights(unclaimed.claim(name), own[name]):
            raise AdapterMismatch(
                f"{name} is not the backbone's own; a trained language-model head is not supported in this format",
                param=name,
            )


def _labels(label2id: Any) -> dict[str, Any]:
    """The labels in the order of their numbers."""
    if not isinstance(label2id, dict) or not label2id:
        return {}
    labels = {place: label for label, place in label2id.items() if type(place) is int}
    if sorted(labels) != list(range(len(label2id))):
        raise InvalidRequest(f"label2id of {HEAD_CONFIG} does not number the labels from 0 on", param="label2id")
    return {"labels": [labels[i] for i in range(len(labels))]}
