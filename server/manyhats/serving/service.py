"""The life of a request between the web layer and the engine.

Every item of a call is pinned to one version, acquires its adapter, is tokenised off the event loop, shares batches
with other requests, and releases everything when it is answered, rejected or cancelled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial

from manyhats.backbone import Backbone
from manyhats.core.answered import Answered
from manyhats.core.call import CURRENT_CALL, Call
from manyhats.core.kinds.registry import KINDS
from manyhats.core.sequence import Request
from manyhats.engine.engine import Engine
from manyhats.errors import ManyhatsError, NotFound
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.registry.adapter_cache import AdapterCache
from manyhats.registry.names import BASE
from manyhats.registry.records import Task, TaskSettings, Version
from manyhats.registry.registry import Registry
from manyhats.registry.visibility import check_base
from manyhats.serving.adapter_use import acquired, give_adapter_back, leave_adapter
from manyhats.serving.answered import answered, refused
from manyhats.serving.backbone_task import BackboneTask
from manyhats.serving.background import Background
from manyhats.serving.dispatch import Dispatcher
from manyhats.serving.faulty_adapters import FaultyAdapters, as_answer, loading_failure, rendering_failure
from manyhats.serving.generation import Generation
from manyhats.serving.inference import (
    InferenceRequest,
    InferenceResponse,
    Limits,
    RequestState,
    check_kind,
    check_request,
)
from manyhats.serving.merged import FIELD, MergeBody, MergedVersion, open_merged, parse
from manyhats.serving.preparation import Preparation
from manyhats.serving.preparation_queue import PreparationQueue
from manyhats.serving.responses import response_cost, response_of
from manyhats.serving.room import give_back, late, reserve, submit
from manyhats.serving.task_views import TaskViews
from manyhats.serving.threads import SMALL_OUTPUT, SMALL_REQUESTS, SMALL_TEXT, at_once_if, tokenising_limit
from manyhats.serving.verification import Verifier

OnRollout = Callable[[InferenceRequest, Version, InferenceResponse | ManyhatsError], None]


class Service:
    """Answers requests. All coroutines run on one event loop."""

    def __init__(
        self, backbone: Backbone, registry: Registry, adapter_cache: AdapterCache, engine: Engine, limits: Limits
    ) -> None:
        self.backbone = backbone
        self.registry = registry
        self.adapter_cache = adapter_cache
        self.engine = engine
        self.limits = limits
        self.dispatcher = Dispatcher()
        self._tokenising = tokenising_limit()
        self._base = BackboneTask(backbone)
        self._views = TaskViews(backbone)
        cache = engine.cache  # of backbones that generate
        self._preparation = Preparation(backbone, None if cache is None else Generation(backbone, cache.capacity))
        self._queue = PreparationQueue(self._preparation, self.dispatcher, partial(submit, engine))
        self.faulty = FaultyAdapters(limits.max_faults, limits.fault_window)
        self.verifier = Verifier(limits.verify_fraction, backbone, engine, adapter_cache)
        self.on_answer: Callable[[Answered], None] = lambda one: None
        self.background = Background(self._open, self._answers, self._close)
        self.on_rollout: OnRollout = lambda request, version, answer: None  # of tasks with an alias that is rolled out

    async def predict(self, request: InferenceRequest) -> InferenceResponse:
        """One request. Raises ManyhatsError."""
        begin = time.monotonic()
        self.dispatcher.attach()
        try:
            one = self._open(request)
        except ManyhatsError as error:
            self.on_answer(refused(request, error, begin))
            raise
        try:
            cost = one.preparing_cost
            if (refusal := reserve(self.engine, self.limits, one, cost)) is not None:
                answer: InferenceResponse | ManyhatsError = refusal
            elif not one.task_kind.generates and cost <= SMALL_TEXT and acquired(self.adapter_cache, one):
                answer = await self._answer_small(one)
            else:
                (answer,) = await self._answers([request], {0: one})
            if self.verifier.fraction and not isinstance(answer, ManyhatsError):
                self.verifier.offer(one)
        finally:
            self._close(one)
        self.on_answer(answered(one, answer, begin))
        if one.watched:
            self.on_rollout(request, one.version, answer)
        if isinstance(answer, ManyhatsError):
            raise answer
        return answer

    async def predict_many(self, requests: Sequence[InferenceRequest]) -> list[InferenceResponse | ManyhatsError]:
        """Requests of any tasks, batched together. A failed request has its error in its place."""
        begin = time.monotonic()
        self.dispatcher.attach()
        pending: dict[int, RequestState] = {}
        try:
            answers = await self._answers(requests, pending)
            for i, one in pending.items() if self.verifier.fraction else ():
                if not isinstance(answers[i], ManyhatsError):
                    self.verifier.offer(one)
        finally:
            for one in pending.values():
                self._close(one)
        for i, answer in enumerate(answers):
            if i in pending:
                self.on_answer(answered(pending[i], answer, begin))
                if pending[i].watched:
                    self.on_rollout(requests[i], pending[i].version, answer)
            elif isinstance(answer, ManyhatsError):
                self.on_answer(refused(requests[i], answer, begin))
        return answers

    # ---- steps

    def _open(self, request: InferenceRequest) -> RequestState:
        """Finds and pins the version. Raises NotFound or InvalidRequest."""
        received = time.monotonic()
        check_request(request, self.limits)
        given = request.parameters
        if request.task == BASE:
            check_base()
            version, given = self._base.open(given, request.kinds)
            task: Task | None = None
        else:
            version = self.registry.pin(request.task, request.affinity)
            try:
                task = self.registry.task(version.task)
            except NotFound:  # deleted between the two steps
                self.registry.unpin(version)
                raise
        merged: MergedVersion | None = None
        try:
            body: MergeBody | None = None
            if FIELD in given:
                body, given = parse(given)
            view = self._views.of(task, version)
            if request.generates or request.kinds:
                check_kind(request, view.kind, version.task)
            parameters, settings = self._views.complete(view, request.defaults, given, request.names)
            if body is not None:
                merged = open_merged(self.registry, body, version, version.task == BASE)
            if self.faulty.reasons:
                self.faulty.check([version] if merged is None else [version, merged, *merged.members])
        except ManyhatsError as error:
            for pinned in merged.members if merged is not None else ():
                self.registry.unpin(pinned)
            if version.task != BASE:
                self.registry.unpin(version)
            if task is not None and task.rollouts:
                self.on_rollout(request, version, error)
            raise
        watched = task is not None and bool(task.rollouts)
        return RequestState(request, version, settings, parameters, received, merged=merged, watched=watched)

    @property
    def base(self) -> Version:
        """The bare backbone's default version."""
        return self._base.version

    @property
    def base_kinds(self) -> tuple[str, ...]:
        """The kinds of answer that the bare backbone gives."""
        return self._base.kinds

    @property
    def base_settings(self) -> TaskSettings:
        """The settings of the bare backbone's default version."""
        return KINDS[self.base.info.kind].bare_settings(TaskSettings(), self.backbone)

    def _close(self, one: RequestState) -> None:
        request = one.engine_request
        if one.call.spend is not None and one.prepared is not None and request is not None:
            one.call.spend(one.prepared.tokens + request.output_tokens)
        if request is not None and (request.future.cancelled() or not request.future.done()):
            self.engine.cancel(request)
        give_back(self.engine, one)
        leave_adapter(self.adapter_cache, one)
        if one.merged is not None:
            for member in one.merged.members:
                self._unpin(member)
        if one.version.task != BASE:
            self._unpin(one.version)

    def _unpin(self, version: Version) -> None:
        if self.registry.uses(version.sha256):
            self.registry.unpin(version)
        else:  # deleted meanwhile: its files may be removed now, in a thread
            asyncio.get_running_loop().run_in_executor(None, self.registry.unpin, version)

    async def _answer_small(self, one: RequestState) -> InferenceResponse | ManyhatsError:
        """Runs a request that is tokenised at once and has its adapter: what most requests are, with no step to spare.

        It is what `_answers` does for any requests.
        """
        try:
            end = self._queue.put(one)
            left = self.limits.seconds_left(one.call)
            deadline = asyncio.get_running_loop().call_later(left, self._expire, end, one.call)
            try:
                await end
            finally:
                deadline.cancel()
            assert one.engine_request is not None
            one.engine_request.future.result()
            size = response_cost(one)
            if size <= SMALL_OUTPUT:
                return self._response(one, size)
        except Exception as error:
            return self._failure(one, error)
        try:
            async with asyncio.timeout_at(deadline.when()):
                return await at_once_if(False, lambda: self._response(one, size))
        except TimeoutError:
            return late(self.limits, one.call)
        except Exception as error:
            return self._failure(one, error)

    def _failure(self, one: RequestState, error: Exception) -> ManyhatsError:
        """The error for the caller, counted where it is the fault of the request's adapter."""
        answer = as_answer(error)
        if (version := one.effective_version) is not None:
            self.faulty.add(version, answer)
        return answer

    def _expire(self, end: asyncio.Future[None], call: Call) -> None:
        """Ends the wait for a request that has not been answered in time."""
        if not end.done():
            end.set_exception(late(self.limits, call))

    def _response(self, one: RequestState, size: int) -> InferenceResponse:
        try:
            return response_of(one, self.backbone.tokenizer, self._preparation.generation, size)
        except Exception as error:
            failure = rendering_failure(one.effective_version or one.version, error)
            raise failure from failure.__cause__

    async def _answers(
        self, requests: Sequence[InferenceRequest], pending: dict[int, RequestState]
    ) -> list[InferenceResponse | ManyhatsError]:
        """Opens the requests that are not in `pending`, which the caller closes, and answers all in time."""
        answers: list[InferenceResponse | ManyhatsError | None] = [None] * len(requests)
        call = CURRENT_CALL.get()

        def open_all() -> None:
            for i, request in enumerate(requests):
                try:
                    if i not in pending:
                        one = pending[i] = self._open(request)
                        answers[i] = reserve(self.engine, self.limits, one, one.preparing_cost)
                except ManyhatsError as error:
                    answers[i] = error

        try:
            async with asyncio.timeout(self.limits.seconds_left(call)) as deadline:
                await at_once_if(len(requests) <= SMALL_REQUESTS, open_all)
                await self._answer(pending, answers, deadline)
        except TimeoutError:
            answers = [late(self.limits, call) if answer is None else answer for answer in answers]
        return [answer for answer in answers if answer is not None]

    async def _answer(
        self,
        pending: dict[int, RequestState],
        answers: list[InferenceResponse | ManyhatsError | None],
        deadline: asyncio.Timeout,
    ) -> None:
        """Runs the requests whose adapters are in slots together at once, and each other one when its adapter is
        loaded."""
        waits: dict[int, asyncio.Future[BoundAdapter]] = {}
        ready: list[int] = []
        for i, one in pending.items():
            if answers[i] is not None:  # refused
                continue
            if acquired(self.adapter_cache, one):
                ready.append(i)
            else:
                assert one.load_future is not None
                waits[i] = asyncio.wrap_future(one.load_future)

        async def later(i: int) -> None:
            one = pending[i]
            try:
                one.adapter = await waits[i]
            except Exception as error:
                answers[i] = self._failure(one, loading_failure(one.effective_version or one.version, error))
                return
            one.acquired = True
            one.load_ms = (time.monotonic() - one.received) * 1000
            await self._run([i], pending, answers, deadline)

        if ready and not waits:
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
                    self._preparation.prepare(pending[i])
                except Exception as error:
                    answers[i] = as_answer(error)

        cost = sum(pending[i].preparing_cost for i in indices)
        await at_once_if(cost <= SMALL_TEXT, tokenise, self._tokenising)
        requests = {i: request for i in indices if (request := pending[i].engine_request) is not None}
        finished = {i: self.dispatcher.end_of(request.future) for i, request in requests.items()}
        for i, error in submit(self.engine, requests).items():
            answers[i] = error
            pending[i].engine_request = None
        waiting = [i for i in requests if pending[i].engine_request is not None]
        for i in waiting:
            try:
                await self._wait(requests[i], finished[i], deadline)
            except Exception as error:
                answers[i] = self._failure(pending[i], error)

        def finish() -> None:
            for i in waiting:
                if answers[i] is None:
                    try:
                        answers[i] = self._response(pending[i], costs[i])
                    except Exception as error:
                        answers[i] = self._failure(pending[i], error)

        costs = {i: response_cost(pending[i]) for i in waiting if answers[i] is None}
        await at_once_if(sum(costs.values()) <= SMALL_OUTPUT, finish)
        for i in indices:
            give_adapter_back(self.adapter_cache, pending[i])

    async def _wait(self, request: Request, end: asyncio.Future[None], deadline: asyncio.Timeout) -> None:
        """Waits until the engine has finished it, `end`. Raises its error.

        The deadline is extended as long as tokens are generated: it limits the time without progress. That of the call
        itself is not.
        """
        if request.generates:
            loop, seconds = asyncio.get_running_loop(), self.limits.timeout
            call, grown = CURRENT_CALL.get(), -1
            while not end.done():
                if request.output_tokens > grown:
                    grown = request.output_tokens
                    deadline.reschedule(loop.time() + self.limits.seconds_left(call))
                await asyncio.wait({end}, timeout=seconds / 4)
            deadline.reschedule(loop.time() + self.limits.seconds_left(call))
        await end
        request.future.result()
