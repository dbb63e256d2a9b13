"""`config.json` of an adapter: what transformers' model config says of the head (`problem_type`, labels)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from manyhats.core.adapter import Adapter
from manyhats.core.kinds.registry import KINDS
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.formats.files import read_json
from manyhats.formats.kinds import kind_of_problem_type
from manyhats.messages import short_repr
from manyhats.methods.heads import KindName

FILE = "config.json"
ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The fields of `config.json`; empty where there is none. `labels`: in the order of the outputs."""

    architecture: str | None = None
    problem_type: ProblemType | None = None
    labels: tuple[str, ...] | None = None
    num_labels: int | None = None
    activation: str | None = None  # applied to the outputs by sentence-transformers' CrossEncoder


def read_model_config(folder: Path) -> ModelConfig:
    """Reads it. Raises InvalidRequest for fields of a wrong type."""
    if not (folder / FILE).is_file():
        return ModelConfig()
    config = read_json(folder / FILE)
    names = config.get("architectures")
    problem = config.get("problem_type")
    if problem not in (None, *get_args(ProblemType)):
        raise InvalidRequest(
            f"problem_type of {FILE} is {short_repr(problem)}; these are: {', '.join(get_args(ProblemType))}",
            param="problem_type",
        )
    count = config.get("num_labels", config.get("_num_labels"))
    if count is not None and (type(count) is not int or count < 1):
        raise InvalidRequest(
            f"num_labels of {FILE} must be a number from 1 on, not {short_repr(count)}", param="num_labels"
        )
    labels = _labels(config)
    if labels is not None and count is not None and len(labels) != count:
        raise InvalidRequest(
            f"{FILE} says num_labels {count}, but id2label has {len(labels)} labels", param="num_labels"
        )
    return ModelConfig(
        architecture=names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None,
        problem_type=problem,
        labels=labels,
        num_labels=count if labels is None else len(labels),
        activation=_activation(config),
    )


def _labels(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The labels by index; JSON has the indices as texts. None where there are none."""
    given, field = config.get("id2label"), "id2label"
    if given is None and isinstance(config.get("label2id"), dict):
        given, field = {number: label for label, number in config["label2id"].items()}, "label2id"
    if given is None:
        return None
    labels: dict[int, str] = {}
    if not isinstance(given, dict):
        raise InvalidRequest(f"{field} of {FILE} must be an object, not {short_repr(given)}", param=field)
    for number, label in given.items():
        text = str(number) if type(number) in (int, str) else ""
        if not text.isdecimal() or len(text) > 9 or not isinstance(label, (str, int)) or isinstance(label, bool):
            raise InvalidRequest(
                f"{field} of {FILE} must go from output numbers to names, not from {short_repr(number)} to "
                f"{short_repr(label)}",
                param=field,
            )
        labels[int(text)] = str(label)
    if sorted(labels) != list(range(len(given))) or not labels:
        raise InvalidRequest(f"{field} of {FILE} does not number the labels from 0 on", param=field)
    return tuple(labels[i] for i in range(len(labels)))


def _activation(config: Mapping[str, Any]) -> str | None:
    own = config.get("sentence_transformers")
    found = own.get("activation_fn") if isinstance(own, dict) else None
    found = found or config.get("sbert_ce_default_activation_function")
    name = str(found).rpartition(".")[2] if found else None
    return None if name == "Identity" else name


def with_model_config(adapter: Adapter, config: ModelConfig, declared: KindName | None) -> Adapter:
    """The adapter with what its config says: kind, labels, and several labels at once as the default.

    Ignored for an adapter without a head. The adapter's own files take precedence, and so does `declared`, the kind
    stated at the upload. Raises AdapterMismatch where the config and the head contradict each other.
    """
    head = adapter.head
    if head is None or not (KINDS[head.kind].labelled or KINDS[head.kind].over_text):
        return adapter
    if config.num_labels is not None and config.num_labels != head.num_labels:
        raise AdapterMismatch(
            f"{FILE} has {config.num_labels} labels, but the head has {head.num_labels} outputs", param="id2label"
        )
    settings, warnings = dict(adapter.settings), list(adapter.warnings)
    if KINDS[head.kind].over_text:
        head = replace(head, kind=_kind(config, head.kind, head.num_labels, declared))
        if KINDS[head.kind].labelled and config.problem_type == "multi_label_classification":
            settings["defaults"] = {"multi_label": True} | dict(settings.get("defaults", {}))
            warnings.append(f"multi_label true by default: taken from problem_type of {FILE}")
    own = [f"LABEL_{i}" for i in range(head.num_labels)]  # the default names
    if (
        KINDS[head.kind].labelled
        and config.labels is not None
        and "labels" not in settings
        and config.labels != tuple(own)
    ):
        settings["labels"] = list(config.labels)
        warnings.append(f"labels taken from id2label of {FILE}")
    if config.activation is not None:
        warning = KINDS[head.kind].activation_warning(config.activation[:80], FILE)
        warnings += [] if warning is None else [warning]
    return replace(adapter, head=head, kind=head.kind, settings=settings, warnings=tuple(warnings))


def _kind(config: ModelConfig, kind: KindName, outputs: int, declared: KindName | None) -> KindName:
    """The kind of a head over a text, by `problem_type`. Raises AdapterMismatch where the head does not fit."""
    if declared is not None and KINDS[declared].over_text:
        return kind
    match config.problem_type:
        case "multi_label_classification":
            return kind_of_problem_type(config.problem_type)
        case "regression" if outputs > 1:
            raise AdapterMismatch(
                f"problem_type of {FILE} is regression, but the head has {outputs} outputs; a regression with one is "
                "supported (kind 'classify' in the part `task` takes it for a classification)",
                param="problem_type",
            )
        case "regression":
            return kind_of_problem_type(config.problem_type)
        case "single_label_classification" if outputs == 1:
            raise AdapterMismatch(
                f"problem_type of {FILE} is single_label_classification, but the head has one output, whose softmax is "
                "always 1 (kind 'classify' in the part `task` takes a sigmoid, 'regress' the value)",
                param="problem_type",
            )
        case _:
            return kind
