"""Evaluates a new version on labelled examples beside the stable one, by the answers that callers would get."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from manyhats.backbone import Backbone
from manyhats.core.kinds.base import Answer
from manyhats.core.kinds.examples import Columns, Example
from manyhats.core.kinds.metrics import Score
from manyhats.core.kinds.registry import KINDS, TRAININGS
from manyhats.core.kinds.rows import example_of
from manyhats.core.kinds.scores import label_names
from manyhats.core.kinds.training import KindTraining
from manyhats.errors import EngineFailure, InvalidRequest, ManyhatsError, NotFound, Overloaded, TooLarge
from manyhats.registry.evaluation import Evaluation
from manyhats.registry.records import AdapterInfo, Task, TaskSettings, Version, parse_settings
from manyhats.registry.registry import Registry
from manyhats.serving.inference import InferenceRequest, InferenceResponse
from manyhats.serving.parameters import parse_parameters

MAX_EXAMPLES = 2000
_AT_ONCE = 32  # inputs of one request
_LONGEST = 900.0  # seconds of one evaluation
_PAIR = "text_pair"  # the column of a pair's second text, as requests call it

Ask = Callable[[InferenceRequest], Awaitable[InferenceResponse]]


@dataclass(frozen=True, slots=True)
class Gate:
    """How much worse than the stable version a new one may be, to be activated. `metric`: its name, where it was said,
    which is compared with the one that is used."""

    max_drop: float = 0.0
    metric: str | None = None


@dataclass(frozen=True, slots=True)
class LabelledExamples:
    """Examples for the versions of one kind, checked."""

    training: KindTraining
    examples: Sequence[Example]


def read_records(data: bytes) -> list[dict[str, Any]]:
    """The rows of JSON lines. Raises InvalidRequest that names the line, TooLarge for too many, with none read."""
    lines = [(number, line) for number, line in enumerate(data.splitlines(), start=1) if line.strip()]
    if not lines:
        raise InvalidRequest("the part 'examples' has no rows; send JSON lines", param="examples")
    if len(lines) > MAX_EXAMPLES:
        raise TooLarge(f"there are {len(lines)} examples; at most {MAX_EXAMPLES}", param="examples")
    records = []
    for number, line in lines:
        try:
            record = from_json(line, allow_inf_nan=False)
        except ValueError as error:
            raise InvalidRequest(f"examples, line {number} is not valid JSON: {error}", param="examples") from None
        if not isinstance(record, dict):
            raise InvalidRequest(f"examples, line {number} is no JSON object", param="examples")
        records.append(record)
    return records


def settings_after(task: Task | None, partial: Mapping[str, Any], info: AdapterInfo) -> TaskSettings:
    """What would hold for a version with this adapter, of a task that is given these settings too."""
    own = {} if task is None else task.settings.model_dump(exclude_unset=True)
    given = {name: value for name, value in {**own, **partial}.items() if value is not None}
    return Task("", 0.0, parse_settings(given)).settings_for(Version("", 0, "", info, 0.0))


def labelled_examples(
    records: Sequence[Mapping[str, Any]], settings: TaskSettings, info: AdapterInfo, gate: Gate, backbone: Backbone
) -> LabelledExamples:
    """The rows as examples for a version. Raises InvalidRequest that names the row and what is wrong with it."""
    kind = KINDS[settings.kind or info.kind]
    parameters = parse_parameters(kind.name, "", settings.defaults, {})
    parameters, _ = kind.complete(parameters, settings, backbone, info.num_labels)
    trainings = [one for one in TRAININGS.values() if one.served_as.name == kind.name and one.judges(parameters)]
    if not trainings:
        raise InvalidRequest(
            f"tasks of kind '{kind.name}' cannot be evaluated; leave the examples out", param="examples"
        )
    training = trainings[0]
    if gate.metric not in (None, training.answer_metric.hub_name):
        raise InvalidRequest(
            f"the metric of this kind is '{training.answer_metric.hub_name}', not '{gate.metric[:100]}'", param="metric"
        )
    training.check_served(settings)
    known = set(label_names(settings.labels, info.num_labels or 0)) if training.labelled else None
    examples = []
    for number, record in enumerate(records, start=1):
        columns = Columns(text_pair=_PAIR) if _PAIR in record else Columns()
        wanted = training.columns(columns)
        absent = next((column for column in wanted.values() if column not in record), None)
        if absent is not None:
            raise InvalidRequest(
                f"examples, row {number}: there is no '{absent}'; a row of kind '{kind.name}' has "
                f"{', '.join(wanted.values())}",
                param="examples",
            )
        try:
            example = example_of(record, training, columns)
        except ValueError as error:
            raise InvalidRequest(f"examples, row {number}: {error}", param="examples") from None
        unknown = next((label for label in training.labels(example) if known is not None and label not in known), None)
        if unknown is not None:
            raise InvalidRequest(
                f"examples, row {number}: the adapter has no label '{unknown[:100]}'; it has "
                f"{', '.join(sorted(known or ()))[:500]}",
                param="examples",
            )
        examples.append(example)
    return LabelledExamples(training, examples)


class Evaluator:
    """Runs evaluations, one at a time, behind all other work. `ask` answers a request so.

    `max_inputs`: of one request.
    """

    def __init__(self, ask: Ask, registry: Registry, max_inputs: int) -> None:
        self._ask = ask
        self._registry = registry
        self._at_once = min(_AT_ONCE, max_inputs)
        self._lock = asyncio.Lock()

    async def evaluate(
        self, version: Version, labelled: LabelledExamples, gate: Gate, *, alias: str, activate: bool
    ) -> Evaluation:
        """How good the version is beside the stable one, and whether `alias` is to point at it. Nothing is changed.

        A version that cannot be evaluated is not to be activated, which the evaluation says: nothing is raised.
        """
        async with self._lock:
            # A task of its own: its requests have another call.
            return await asyncio.create_task(self._evaluate(version, labelled, gate, alias, activate))

    async def _evaluate(
        self, version: Version, labelled: LabelledExamples, gate: Gate, alias: str, activate: bool
    ) -> Evaluation:
        stable = self._registry.task(version.task).stable
        metric = labelled.training.answer_metric
        value = baseline = None
        try:
            async with asyncio.timeout(_LONGEST):
                value = (await self._score(version, labelled)).value
                if stable is not None:
                    baseline = value if stable.number == version.number else await self._baseline(stable, labelled)
        except TimeoutError:
            passed, reason = False, f"it took longer than {_LONGEST:g} s; send fewer examples"
        except ManyhatsError as error:
            passed, reason = False, f"{version.ref} cannot be evaluated: {error.message}"
        else:
            passed, reason = _decided(labelled, value, baseline, stable, gate.max_drop)
        if passed and not activate:
            passed, reason = False, f"{reason}; it was not to be activated"
        return Evaluation(
            metric=metric.hub_name,
            value=_number(value),
            baseline=_number(baseline),
            baseline_version=None if stable is None else stable.number,
            examples=len(labelled.examples),
            max_drop=gate.max_drop,
            alias=alias,
            activated=passed,
            reason=reason,
            created=time.time(),
        )

    async def _baseline(self, stable: Version, labelled: LabelledExamples) -> float | None:
        """The stable version's value; None where its answers fail by the server's fault: anything is better.

        Raises InvalidRequest where it is of another kind.
        """
        kind = self._registry.task(stable.task).settings_for(stable).kind
        if kind != labelled.training.served_as.name:
            raise InvalidRequest(f"{stable.ref}, which is stable, is of kind '{kind}': these cannot be compared")
        try:
            return (await self._score(stable, labelled)).value
        except EngineFailure:
            return None

    async def _score(self, version: Version, labelled: LabelledExamples) -> Score:
        questions = labelled.training.questions(labelled.examples)
        answers: list[Answer] = []
        for start in range(0, len(questions), self._at_once):
            texts = questions[start : start + self._at_once]
            answers += (await self._answer(InferenceRequest(version.ref, texts, labelled.training.asked))).outputs
        return labelled.training.judged(answers, labelled.examples)

    async def _answer(self, request: InferenceRequest) -> InferenceResponse:
        """Waits while the queue is full."""
        while True:
            try:
                return await self._ask(request)
            except Overloaded as error:
                await asyncio.sleep(error.retry_after)
            except NotFound as error:
                raise InvalidRequest(f"it was deleted meanwhile: {error.message}") from None


def _decided(
    labelled: LabelledExamples, value: float | None, baseline: float | None, stable: Version | None, max_drop: float
) -> tuple[bool, str]:
    """Whether the version may be activated, and why."""
    metric = labelled.training.answer_metric
    if value is None or not math.isfinite(value):
        return False, f"no example gives its {metric.hub_name}"
    if stable is None:
        return True, "there is no stable version to compare with"
    if baseline is None or not math.isfinite(baseline):
        return True, f"the stable version {stable.number} fails on the examples"
    drop = baseline - value if metric.more_is_better else value - baseline
    beside = f"{metric.hub_name} {value:.4g} beside {baseline:.4g} of the stable version {stable.number}"
    if drop > max_drop + 1e-12:
        return False, f"{beside}: {drop:.4g} worse, and at most {max_drop:g} is allowed"
    return True, beside


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
