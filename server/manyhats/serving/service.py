"""The life of a request between the web layer and the engine.

Every item of a call is pinned to one version, acquires its adapter, is tokenised off the event loop, shares batches
with whatever else is waiting, and gives everything back when it is answered, refused or abandoned.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np

from manyhats.backbone import Backbone
from manyhats.engine.engine import Engine
from manyhats.engine.forward import Row
from manyhats.engine.stream import Writing
from manyhats.engine.work import Work
from manyhats.errors import DeadlineExceeded, EngineFailure, InvalidRequest, ManyhatsError, NotFound, Overloaded
from manyhats.methods.adapter import BoundAdapter
from manyhats.registry.names import BASE
from manyhats.registry.records import TaskSettings, Version
from manyhats.registry.registry import Registry
from manyhats.registry.residency import Residency
from manyhats.serving.base import BaseTask
from manyhats.serving.dispatch import Dispatcher
from manyhats.serving.embedding import prepare_embeddings, settings_of_base, with_backbone, with_pooling
from manyhats.serving.fills import fill_answer, mask_places
from manyhats.serving.generation import Asked, Generation, rendering_cost_of_texts
from manyhats.serving.inference import (
    InferenceRequest,
    InferenceResponse,
    Limits,
    RequestState,
    check_request,
    prompts_of,
)
from manyhats.serving.inputs import Prepared, prepare
from manyhats.serving.merged import FIELD, MergeBody, MergedVersion, open_merged, parse
from manyhats.serving.outputs import Answer, render, rendering_cost
from manyhats.serving.parameters import (
    ClassifyParameters,
    EmbedParameters,
    FillParameters,
    GenerateParameters,
    of_one_label,
    parse_parameters,
)
from manyhats.serving.threads import SMALL_OUTPUT, SMALL_REQUESTS, SMALL_TEXT, at_once_if, tokenising_limit

logger = logging.getLogger(__name__)


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
        self.dispatcher = Dispatcher()
        self._tokenising = tokenising_limit()
        self._base = BaseTask(backbone)
        self._generation = Generation(backbone, engine.generator) if engine.generator is not None else None
        self.on_answer: Callable[[str, Exception | None, float], None] = lambda task, error, seconds: None

    async def predict(self, request: InferenceRequest) -> InferenceResponse:
        """One request. Raises ManyhatsError."""
        (answer,) = await self.predict_many([request])
        if isinstance(answer, ManyhatsError):
            raise answer
        return answer

    async def predict_many(self, requests: Sequence[InferenceRequest]) -> list[InferenceResponse | ManyhatsError]:
        """Requests of any tasks, batched together. A request's failure stands in its own place."""
        begin = time.monotonic()
        self.dispatcher.attach()
        answers: list[InferenceResponse | ManyhatsError | None] = [None] * len(requests)
        pending: dict[int, RequestState] = {}

        def open_all() -> None:
            for i, request in enumerate(requests):
                try:
                    pending[i] = self._open(request)
                except ManyhatsError as error:
                    answers[i] = error

        try:
            async with asyncio.timeout(self.limits.timeout) as deadline:
                await at_once_if(len(requests) <= SMALL_REQUESTS, open_all)
                await self._answer(pending, answers, deadline)
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

    def _open(self, request: InferenceRequest) -> RequestState:
        """Finds and pins the version. Raises NotFound or InvalidRequest."""
        asked = time.monotonic()
        check_request(request, self.limits)
        given = request.parameters
        if request.task == BASE:
            version, given = self._base.open(given)
            settings = TaskSettings()
        else:
            version = self.registry.pin(request.task)
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
            kind = settings.kind or version.info.kind
            if request.generates and kind != "generate":
                raise InvalidRequest(
                    f"the task `{version.task}` is of kind '{kind}' and cannot generate text; ask it with "
                    f"POST /v1/tasks/{version.task}/predict",
                    param="model",
                )
            defaults = {**request.defaults, **settings.defaults}
            parameters = parse_parameters(kind, version.task, defaults, given, request.names)
            if isinstance(parameters, EmbedParameters):
                own = self.backbone.sentence_embedding
                settings = with_backbone(settings, own)
                parameters = with_pooling(parameters, settings, own)
            if isinstance(parameters, ClassifyParameters) and version.info.num_labels == 1:
                parameters = of_one_label(parameters)
            if body is not None:
                merged = open_merged(self.registry, body, version, version.task == BASE)
        except ManyhatsError:
            if version.task != BASE:
                self.registry.unpin(version)
            raise
        return RequestState(request, version, settings, parameters, asked, merged=merged)

    @property
    def base(self) -> Version:
        """The bare backbone, as what it does where a request does not say otherwise."""
        return self._base.version

    @property
    def base_settings(self) -> TaskSettings:
        """What holds for the bare backbone, as what it does where a request does not say otherwise."""
        return settings_of_base(self.backbone) if self.base.info.kind == "embed" else TaskSettings()

    def _close(self, one: RequestState) -> None:
        if one.work is not None and (one.work.future.cancelled() or not one.work.future.done()):
            self.engine.cancel(one.work)
        version_in_effect = one.effective_version
        if one.acquired and version_in_effect is not None:
            self.residency.release(version_in_effect)
        elif one.load_future is not None and not one.load_future.cancel():
            # It came true while nobody waited for it any more.
            given = version_in_effect or one.version
            one.load_future.add_done_callback(lambda load: _release_if_given(self.residency, given, load))
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

    async def _answer(
        self,
        pending: dict[int, RequestState],
        answers: list[InferenceResponse | ManyhatsError | None],
        deadline: asyncio.Timeout,
    ) -> None:
        """Those whose adapters are in their slots go together at once; each other one follows when it is there."""
        waits: dict[int, asyncio.Future[BoundAdapter]] = {}
        ready: list[int] = []
        for i, one in pending.items():
            version_in_effect = one.effective_version
            if version_in_effect is None:
                ready.append(i)
                continue
            load = one.load_future = self.residency.acquire(version_in_effect)
            if load.done() and load.exception() is None:
                one.adapter, one.acquired = load.result(), True
                ready.append(i)
            else:
                waits[i] = asyncio.wrap_future(load)

        async def later(i: int) -> None:
            one = pending[i]
            try:
                one.adapter = await waits[i]
            except Exception as error:
                answers[i] = _as_answer(error)
                return
            one.acquired = True
            one.load_ms = (time.monotonic() - one.asked) * 1000
            await self._run([i], pending, answers, deadline)

        if not waits:
            await self._run(ready, pending, answers, deadline)
            return
        async with asyncio.TaskGroup() as group:
            if ready:
                group.create_task(self._run(ready, pending, answers, deadline))
            for i in waits:
                group.create_task(later(i))

    async def _run(
        self,
        indices: list[int],
        pending: dict[int, RequestState],
        answers: list[InferenceResponse | ManyhatsError | None],
        deadline: asyncio.Timeout,
    ) -> None:
        def tokenise() -> None:
            for i in indices:
                try:
                    self._prepare(pending[i])
                except Exception as error:
                    answers[i] = _as_answer(error)

        cost = sum(pending[i].preparing_cost for i in indices)
        await at_once_if(cost <= SMALL_TEXT, tokenise, self._tokenising)
        works = {i: work for i in indices if (work := pending[i].work) is not None}
        for i, error in self._submit(works).items():
            answers[i] = error
            pending[i].work = None
        waiting = [i for i in works if pending[i].work is not None]
        for i in waiting:
            try:
                await self._wait(works[i], deadline)
            except Exception as error:
                answers[i] = _as_answer(error)

        def finish() -> None:
            for i in waiting:
                if answers[i] is None:
                    try:
                        answers[i] = self._response(pending[i])
                    except Exception as error:
                        answers[i] = _as_answer(error)

        cost = sum(self._rendering_cost(pending[i]) for i in waiting if answers[i] is None)
        await at_once_if(cost <= SMALL_OUTPUT, finish)

    async def _wait(self, work: Work | Writing, deadline: asyncio.Timeout) -> None:
        """Until the work is done. The deadline moves on as long as texts grow: they may take any time, but not stand
        still. Raises what the work failed with."""
        if isinstance(work, Writing):
            await self._wait_for_progress(work, deadline)
        else:
            await self.dispatcher.wait(work.future)
        work.future.result()

    async def _wait_for_progress(self, work: Writing, deadline: asyncio.Timeout) -> None:
        loop, seconds = asyncio.get_running_loop(), self.limits.timeout
        done = asyncio.ensure_future(self.dispatcher.wait(work.future))
        grown = -1
        try:
            while not done.done():
                if work.output_tokens > grown:
                    grown = work.output_tokens
                    deadline.reschedule(loop.time() + seconds)
                await asyncio.wait({done}, timeout=seconds / 4)
        finally:
            done.cancel()
        deadline.reschedule(loop.time() + seconds)

    def _submit(self, works: dict[int, Work | Writing]) -> dict[int, ManyhatsError]:
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

    def _prepare(self, one: RequestState) -> None:
        kind = one.kind
        longest = self.backbone.max_tokens - one.adapter.position_shift
        if kind == "span" and any(text.pair is None for text in one.request.texts):
            raise InvalidRequest(
                "a task of kind 'span' needs the question in 'text' and the context in 'text_pair'", param="inputs"
            )
        if isinstance(one.parameters, GenerateParameters):
            self._prepare_texts(one, one.parameters, longest)
            return
        longest = min(one.settings.max_tokens or longest, longest)
        if isinstance(one.parameters, EmbedParameters):
            one.prepared, rows = prepare_embeddings(
                one.request.texts,
                one.parameters,
                one.settings,
                one.adapter,
                self.backbone,
                max_tokens=longest,
                truncate=one.truncates,
            )
        else:
            one.prepared = prepare(
                self.backbone.tokenizer,
                one.request.texts,
                template=one.settings.template,
                max_tokens=longest,
                truncate=one.truncates,
            )
            masks = [
                mask_places(self.backbone.tokenizer, e, i) if kind == "fill" else ()
                for i, e in enumerate(one.prepared.encoded)
            ]
            rows = [
                Row(e.ids, e.type_ids, one.adapter, masks=places)
                for e, places in zip(one.prepared.encoded, masks, strict=True)
            ]
        one.work = Work(task=one.version.task, rows=rows, priority=one.settings.priority)

    def _prepare_texts(self, one: RequestState, parameters: GenerateParameters, places: int) -> None:
        """Prompts and the texts that are to follow them. `places`: the most tokens of a text."""
        assert self._generation is not None, "a task that generates on a backbone that cannot"
        added = min(parameters.max_new_tokens, 1)  # at least one token, where any are asked
        longest = min(one.settings.max_tokens or places, places - added)
        one.prepared = prompts_of(one, self.backbone.tokenizer, self._generation.vocabulary, longest)
        asked = Asked(
            one.version.task,
            (one.effective_version or one.version).sha256,
            one.adapter,
            one.settings.priority,
            one.request.listener,
            frozenset(one.settings.stop_token_ids or ()),
        )
        given = one.request.prompts is not None
        texts = [None if given else text.text for text in one.prepared.texts]
        prompts = list(zip(texts, one.prepared.encoded, strict=True))
        one.work, warnings = self._generation.open(asked, prompts, parameters, places)
        one.prepared.warnings.extend(warnings)

    def _response(self, one: RequestState) -> InferenceResponse:
        assert one.prepared is not None
        work = one.work
        assert work is not None
        assert work.batch is not None
        writing = work if isinstance(work, Writing) else None
        return InferenceResponse(
            id=f"pred-{uuid.uuid4().hex}",
            version=one.version,
            kind=one.kind,
            outputs=self._outputs(one, one.prepared, work),
            input_tokens=one.prepared.tokens,
            output_tokens=writing.output_tokens if writing else 0,
            queue_ms=(work.started - work.queued) * 1000,
            load_ms=one.load_ms,
            compute_ms=work.compute * 1000,
            batch={
                "id": work.batch.id,
                "sequences": work.batch.sequences,
                "tasks": len(work.batch.tasks),
                "methods": list(work.batch.methods),
            },
            warnings=one.prepared.warnings,
            size=self._rendering_cost(one),
            writing=writing,
        )

    def _rendering_cost(self, one: RequestState) -> int:
        if isinstance(one.work, Writing):
            return rendering_cost_of_texts(one.work)
        assert one.work is not None
        return sum(rendering_cost(one.parameters, output) for output in one.work.future.result())

    def _outputs(self, one: RequestState, prepared: Prepared, work: Work | Writing) -> list[Answer]:
        parameters = one.parameters
        if isinstance(work, Writing):
            assert isinstance(parameters, GenerateParameters)
            assert self._generation is not None
            return self._generation.answers(work, parameters)
        computed = work.future.result()
        if not all(np.isfinite(output).all() for output in computed):
            raise EngineFailure(f"the adapter {one.version.ref} gives values that are not finite")
        if isinstance(parameters, FillParameters):
            return [
                fill_answer(output, parameters, self.backbone.tokenizer, encoded)
                for output, encoded in zip(computed, prepared.encoded, strict=True)
            ]
        return [
            render(one.kind, output, parameters, labels=one.settings.labels, text=text, encoded=encoded)
            for output, text, encoded in zip(computed, prepared.texts, prepared.encoded, strict=True)
        ]


def _as_answer(error: Exception) -> ManyhatsError:
    """What a caller is told; what is not a caller's business is in the log alone."""
    if isinstance(error, ManyhatsError):
        return error
    logger.error("a request failed", exc_info=error)
    return EngineFailure("the server failed on this request; its log says why")


def _release_if_given(residency: Residency, version: Version, load: Future[BoundAdapter]) -> None:
    if not load.cancelled() and load.exception() is None:
        residency.release(version)
