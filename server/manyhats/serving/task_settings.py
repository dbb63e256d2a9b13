"""Checks a task's settings against its adapter and the backbone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from manyhats.backbone import Backbone
from manyhats.core.kinds.registry import KINDS
from manyhats.errors import InvalidRequest
from manyhats.registry.records import AdapterInfo, parse_settings
from manyhats.serving.parameters import parse_parameters


def check_settings(
    task: str,
    partial: Mapping[str, Any],
    info: AdapterInfo | None,
    backbone: Backbone,
    *,
    prompts: Collection[str] = (),
) -> None:
    """Raises InvalidRequest for the first setting that is invalid, or does not fit.

    `partial`: the given fields, None for those to be reset to the adapter's. `info`: of the task's adapter; None where
    it has none yet. `prompts`: the names of the task's prompts.
    """
    parse_settings({name: value for name, value in partial.items() if value is not None})
    _check_labels(task, partial.get("labels"), info)
    max_tokens = partial.get("max_tokens")
    if max_tokens is not None and max_tokens > backbone.max_tokens:
        raise InvalidRequest(
            f"max_tokens is {max_tokens}, but the backbone takes {backbone.max_tokens}", param="max_tokens"
        )
    vocabulary = int(backbone.config.vocab_size)
    for token in partial.get("stop_token_ids") or ():
        if token >= vocabulary:
            raise InvalidRequest(
                f"stop_token_ids has {token}, but the backbone's tokens are 0 to {vocabulary - 1}",
                param="stop_token_ids",
            )
    if info is None:
        return
    kind = partial.get("kind")
    if kind is not None:
        info.require(kind)
    if partial.get("defaults"):
        parse_parameters(kind or info.kind, task, {}, partial["defaults"])
    _check_kind(partial, kind or info.kind)
    known = {*prompts, *(info.settings.get("prompts") or ()), *backbone.sentence_embedding.prompts}
    KINDS[kind or info.kind].check_settings(partial, known)


def _check_kind(partial: Mapping[str, Any], kind: str) -> None:
    """Raises InvalidRequest for a setting of other kinds."""
    for other in KINDS.values():
        given = next((name for name in other.settings if partial.get(name) is not None), None)
        if given is not None and given not in KINDS[kind].settings:
            raise InvalidRequest(
                f"{given} is for tasks of kind '{other.name}'; this one is of kind '{kind}'", param=given
            )


def _check_labels(task: str, labels: list[str] | None, info: AdapterInfo | None) -> None:
    if labels is None:
        return
    outputs = info.num_labels if info else None
    if len(labels) != outputs:
        raise InvalidRequest(
            f"there are {len(labels)} labels, but the head of `{task}` has {outputs or 'no'} outputs",
            param="labels",
        )
    if any(not label.strip() for label in labels):
        index = next(i for i, label in enumerate(labels) if not label.strip())
        raise InvalidRequest(f"label {index} is empty", param="labels")
