"""The life of a request between the web layer and the engine.

Every item of a call is pinned to one version, acquires its adapter, is tokenised off the event loop, shares batches
with whatever else is waiting, and gives everything back when it is answered, refused or abandoned.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from anyio import to_thread

from manyhats.backbone import Backbone, Text
from manyhats.engine.engine import Engine
from manyhats.engine.forward import Row
from manyhats.engine.work import Work
from manyhats.errors import DeadlineExceeded, EngineFailure, InvalidRequest, ManyhatsError, NotFound, Overloaded
from manyhats.methods.adapter import BARE, BoundAdapter
from manyhats.registry.names import BASE
from manyhats.registry.records import TaskSettings, Version
from manyhats.registry.registry import Registry
from manyhats.registry.residency import Residency
from manyhats.serving.base import BaseTask
from manyhats.serving.fills import fill_answer, mask_places
from manyhats.serving.generation import Generation
from manyhats.serving.inputs import Notice, Prepared, check_texts, prepare
from manyhats.serving.merged import FIELD, MergeBody, MergedVersion, open_merged, parse
from manyhats.serving.outputs import Answer, render
from manyhats.serving.parameters import (
    EmbedParameters,
    FillParameters,
    GenerateParameters,
    Parameters,
    parse_parameters,
)

logger = logging.getLogger(__name__)

_AT_ONCE = 8  # questions that are looked up on the event loop itself


@dataclass(frozen=True, slots=True)
class Question:
    """One item of a call: texts for one task. `task` may name an alias or a version (`spam@canary`, `spam@3`)."""

    task: str
    texts: Sequence[Text]
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """The answers to one question. Times in milliseconds."""

    id: str
    version: Version
    outputs: list[Answer]
    input_tokens: int
    output_tokens: int
    queue_ms: float
    load_ms: float
    compute_ms: float
    batch: dict[str, Any]
    warnings: list[Notice]


@dataclass(slots=True)
class _Pending:
    """A question on its way."""

    question: Question
    version: Version
    settings: TaskSettings
    parameters: Parameters
    asked: float
    adapter: BoundAdapter = BARE
    acquired: bool = False
    wish: Future[BoundAdapter] | None = None  # for the adapter's slot
    load_ms: float = 0.0
    prepared: Prepared | None = None
    work: Work | None = None
    generation: Generation | None = None
    merged: MergedVersion | None = None  # what acts in the version's place

    @property
    def wearing(self) -> Version | None:
        """The version whose adapter acts; None for the bare backbone."""
        return self.merged or (None if self.version.task == BASE else self.version)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a caller may ask for at once."""

    max_inputs: int
    max_characters: int
    timeout: float  # seconds until an unanswered question fails


class Service:
    """Asks and answers. All coroutines run on one event loop."""

    def __init__(
        self, backbone: Backbone, registry: Registry, residency: Residency, engine: Engine, limits: Limits
    ) -> None:
        self.backbone = backbone
        self.registry = registry
        self.residency = residency
        self.engine = engine
        self.limits = limits
        self._base = BaseTask(backbone)
        self.on_answer: Callable[[str, Exception | None, float], None] = lambda task, error, seconds: None

    async def ask(self, question: Question) -> Reply:
        """One question. Raises ManyhatsError."""
        (answer,) = await self.ask_all([question])
        if isinstance(answer, ManyhatsError):
            raise answer
        return answer

    async def ask_all(self, questions: Sequence[Question]) -> list[Reply | ManyhatsError]:
        """Questions of any tasks, batched together. A question's failure stands in its own place."""
        begin = time.monotonic()
        answers: list[Reply | ManyhatsError | None] = [None] * len(questions)
        pending: dict[int, _Pending] = {}

        def open_all() -> None:
            for i, question in enumerate(questions):
                try:
                    pending[i] = self._open(question)
                except ManyhatsError as error:
                    answers[i] = error

        try:
            async with asyncio.timeout(self.limits.timeout):
                # Many questions, each perhaps with a search for the nearest name, are no work for the event loop.
                if len(questions) <= _AT_ONCE:
                    open_all()
                else:
                    await to_thread.run_sync(open_all, abandon_on_cancel=False)
                await self._answer(pending, answers)
        except TimeoutError:
            late = DeadlineExceeded(f"no answer within {self.limits.timeout:g} s")
            answers = [late if answer is None else answer for answer in answers]
        finally:
            for one in pending.values():
                self._close(one)
        done = [answer for answer in answers if answer is not None]
        seconds = time.monotonic() - begin
        for i, answer in enumerate(done):
            task = pending[i].version.task if i in pending else ""
            self.on_answer(task, answer if isinstance(answer, ManyhatsError) else None, seconds)
        return done

    # ---- steps

    def _open(self, question: Question) -> _Pending:
        """Finds and pins the version. Raises NotFound or InvalidRequest."""
        asked = time.monotonic()
        check_texts(question.texts, max_inputs=self.limits.max_inputs, max_characters=self.limits.max_characters)
        given = question.parameters
        if question.task == BASE:
            version, given = self._base.open(given)
            settings = TaskSettings()
        else:
            version = self.registry.pin(question.task)
            try:
                settings = self.registry.task(version.task).settings_for(version)
            except NotFound:  # deleted between the two steps
                self.registry.unpin(version)
                raise
        merged: MergedVersion | None = None
        try:
            body: MergeBody | None = None
            if FIELD in given:
                body, given = parse(given)
            parameters = parse_parameters(version.info.kind, version.task, settings.defaults, given)
            if isinstance(parameters, EmbedParameters):
                parameters = _with_pooling(parameters, settings, self.backbone)
            if body is not None:
                merged = open_merged(self.registry, body, version, version.task == BASE)
        except ManyhatsError:
            if version.task != BASE:
                self.registry.unpin(version)
            raise
        return _Pending(question, version, settings, parameters, asked, merged=merged)

    @property
    def base(self) -> Version:
        """The bare backbone, as what it does where a question does not say otherwise."""
        return self._base.version

    def _close(self, one: _Pending) -> None:
        if one.work is not None and (one.work.future.cancelled() or not one.work.future.done()):
            self.engine.cancel(one.work)
        wearing = one.wearing
        if one.acquired and wearing is not None:
            self.residency.release(wearing)
        elif one.wish is not None and not one.wish.cancel():
            # It came true while nobody waited for it any more.
            given = wearing or one.version
            one.wish.add_done_callback(lambda wish: _release_if_given(self.residency, given, wish))
        if one.merged is not None:
            for member in one.merged.members:
                self._unpin(member)
        if one.version.task != BASE:
            self._unpin(one.version)

    def _unpin(self, version: Version) -> None:
        if self.registry.uses(version.sha256):
            self.registry.unpin(version)
        else:  # deleted meanwhile: its files may go now, which is no work for the event loop
            asyncio.get_running_loop().run_in_executor(None, self.registry.unpin, version)

    async def _answer(self, pending: dict[int, _Pending], answers: list[Reply | ManyhatsError | None]) -> None:
        """Those whose adapters are in their slots go together at once; each other one follows when it is there."""
        waits: dict[int, asyncio.Future[BoundAdapter]] = {}
        ready: list[int] = []
        for i, one in pending.items():
            wearing = one.wearing
            if wearing is None:
                ready.append(i)
                continue
            wish = one.wish = self.residency.acquire(wearing)
            if wish.done() and wish.exception() is None:
                one.adapter, one.acquired = wish.result(), True
                ready.append(i)
            else:
                waits[i] = asyncio.wrap_future(wish)

        async def later(i: int) -> None:
            one = pending[i]
            try:
                one.adapter = await waits[i]
            except Exception as error:
                answers[i] = _as_answer(error)
                return
            one.acquired = True
            one.load_ms = (time.monotonic() - one.asked) * 1000
            await self._run([i], pending, answers)

        async with asyncio.TaskGroup() as group:
            if ready:
                group.create_task(self._run(ready, pending, answers))
            for i in waits:
                group.create_task(later(i))

    async def _run(
        self, indices: list[int], pending: dict[int, _Pending], answers: list[Reply | ManyhatsError | None]
    ) -> None:
        def tokenise() -> None:
            for i in indices:
                try:
                    self._prepare(pending[i])
                except Exception as error:
                    answers[i] = _as_answer(error)

        await to_thread.run_sync(tokenise, abandon_on_cancel=False)
        works = {i: work for i in indices if (work := pending[i].work) is not None}
        for i, error in self._submit(works).items():
            answers[i] = error
            pending[i].work = None
        waiting = {i: asyncio.wrap_future(work.future) for i, work in works.items() if pending[i].work is not None}
        for i, result in waiting.items():
            try:
                await result
            except Exception as error:
                answers[i] = _as_answer(error)

        def finish() -> None:
            for i in waiting:
                if answers[i] is None:
                    try:
                        answers[i] = self._reply(pending[i])
                    except Exception as error:
                        answers[i] = _as_answer(error)

        await to_thread.run_sync(finish, abandon_on_cancel=False)

    def _submit(self, works: dict[int, Work]) -> dict[int, ManyhatsError]:
        """All together, or where they do not all fit in the queues, as many as do."""
        try:
            self.engine.submit(list(works.values()))
        except Overloaded:
            refused: dict[int, ManyhatsError] = {}
            for i, work in works.items():
                try:
                    self.engine.submit([work])
                except ManyhatsError as error:
                    refused[i] = error
            return refused
        except ManyhatsError as error:
            return dict.fromkeys(works, error)
        return {}

    def _prepare(self, one: _Pending) -> None:
        kind = one.version.info.kind
        longest = self.backbone.max_tokens - one.adapter.position_shift
        places = longest
        if kind == "generate":
            longest -= 1  # at least one token is added
        if kind == "span" and any(text.pair is None for text in one.question.texts):
            raise InvalidRequest(
                "a task of kind 'span' needs the question in 'text' and the context in 'text_pair'", param="inputs"
            )
        truncate = one.parameters.truncate
        one.prepared = prepare(
            self.backbone.tokenizer,
            one.question.texts,
            template=one.settings.template,
            max_tokens=min(one.settings.max_tokens or longest, longest),
            truncate=one.settings.overflow == "truncate" if truncate is None else truncate,
        )
        pooling = one.parameters.pooling if isinstance(one.parameters, EmbedParameters) else None
        rows = [
            Row(
                e.ids,
                e.type_ids,
                one.adapter,
                pooling or "mean",
                continues=kind == "generate",
                masks=mask_places(self.backbone.tokenizer, e, i) if kind == "fill" else (),
            )
            for i, e in enumerate(one.prepared.encoded)
        ]
        if isinstance(one.parameters, GenerateParameters):
            one.generation = Generation(rows, one.parameters.max_new_tokens, places, self.backbone.end_tokens)
            one.prepared.warnings.extend(one.generation.warnings)
        one.work = Work(
            task=one.version.task,
            rows=rows,
            priority=one.settings.priority,
            follow=one.generation.follow if one.generation else None,
        )

    def _reply(self, one: _Pending) -> Reply:
        assert one.prepared is not None
        assert one.work is not None
        assert one.work.batch is not None
        kind = one.version.info.kind
        computed = one.work.future.result()
        if not all(np.isfinite(output).all() for output in computed):
            raise EngineFailure(f"the adapter {one.version.ref} gives values that are not finite")
        if one.generation is not None:
            outputs = one.generation.outputs(self.backbone.tokenizer)
        elif isinstance(one.parameters, FillParameters):
            outputs = [
                fill_answer(output, one.parameters, self.backbone.tokenizer, encoded)
                for output, encoded in zip(computed, one.prepared.encoded, strict=True)
            ]
        else:
            outputs = [
                render(kind, output, one.parameters, labels=one.settings.labels, text=text, encoded=encoded)
                for output, text, encoded in zip(computed, one.prepared.texts, one.prepared.encoded, strict=True)
            ]
        batch = one.work.batch
        return Reply(
            id=f"pred-{uuid.uuid4().hex}",
            version=one.version,
            outputs=outputs,
            input_tokens=one.prepared.tokens,
            output_tokens=one.generation.output_tokens if one.generation else 0,
            queue_ms=(one.work.started - one.work.queued) * 1000,
            load_ms=one.load_ms,
            compute_ms=one.work.compute * 1000,
            batch={
                "id": batch.id,
                "sequences": batch.sequences,
                "tasks": len(batch.tasks),
                "methods": list(batch.methods),
            },
            warnings=one.prepared.warnings,
        )


def _as_answer(error: Exception) -> ManyhatsError:
    """What a caller is told; what is not a caller's business is in the log alone."""
    if isinstance(error, ManyhatsError):
        return error
    logger.error("a request failed", exc_info=error)
    return EngineFailure("the server failed on this request; its log says why")


def _release_if_given(residency: Residency, version: Version, wish: Future[BoundAdapter]) -> None:
    if not wish.cancelled() and wish.exception() is None:
        residency.release(version)


def _with_pooling(parameters: EmbedParameters, settings: TaskSettings, backbone: Backbone) -> EmbedParameters:
    """What the request leaves open comes from the task, then from the backbone's own sentence embedding."""
    own = backbone.sentence_embedding
    pooling = parameters.pooling or settings.pooling or own.pooling
    normalize = parameters.normalize if parameters.normalize is not None else settings.normalize
    return parameters.model_copy(
        update={"pooling": pooling, "normalize": own.normalize if normalize is None else normalize}
    )
