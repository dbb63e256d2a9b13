"""The engine: one thread runs the model in a loop of schedule, execute, update.

The scheduler, the cache and the runner are used by that thread only, without a lock. `submit` and `cancel` may be
called from any thread: they update counts, append to an inbox and wake the thread. The thread is supervised: an error
outside a batch fails the running requests, and the loop continues with the queue. After repeated errors the engine
gives up and reports the reason.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Many
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch

from manyhats.backbone import Backbone
from manyhats.core.batch import ScheduledBatch, SequenceOutput
from manyhats.core.sequence import Request, Reservation
from manyhats.engine.admission import Admission
from manyhats.engine.batch_formation import BatchFormation
from manyhats.engine.compute_threads import set_compute_threads
from manyhats.engine.config import EngineConfig
from manyhats.engine.detokenizer import Detokenizer
from manyhats.engine.kv_cache import KVCache
from manyhats.engine.lanes import Lanes
from manyhats.engine.out_of_memory import PassBound
from manyhats.engine.runner import Runner
from manyhats.engine.scheduler import Scheduler
from manyhats.engine.set_future import set_future
from manyhats.errors import DeadlineExceeded, EngineFailure, NotReady

logger = logging.getLogger(__name__)

_IDLE_RETRY_SECONDS = 0.05  # until the next attempt, where sequences wait and none can run
_MAX_FAILURES = 5  # after so many errors outside a batch within `_FAILURE_WINDOW` seconds the engine gives up
_FAILURE_WINDOW = 60.0
_SHUTTING_DOWN = "the server is shutting down"
_LAST_BATCH_TIMEOUT = 30.0  # seconds that `stop` waits for the running batch after its own timeout
_DETOKENIZER_TIMEOUT = 5.0  # seconds for decoding the text of the last batches


class Engine:
    """Runs requests on the backbone. `submit`, `cancel` and `waiting` may be called from any thread.

    `on_fatal` is called with the reason, in the model's thread, when the engine gives up; the process must then end.
    """

    def __init__(self, backbone: Backbone, config: EngineConfig) -> None:
        self.backbone = backbone
        self.cache = KVCache(backbone, config.cache_bytes) if backbone.has_language_model else None
        self.scheduler = Scheduler(
            self.cache, max_num_batched_tokens=config.max_num_batched_tokens, max_num_seqs=config.max_num_seqs
        )
        self.lanes = Lanes(self.scheduler)
        self.runner = Runner(backbone, self.cache, enforce_eager=config.enforce_eager)
        least = config.max_num_seqs if self.cache is not None else 1
        self.pass_bound = PassBound(self.scheduler.max_num_batched_tokens, least)
        self.runner.on_out_of_memory = self.pass_bound.lower
        self.detokenizer = Detokenizer()
        # Entered around the delivery of a batch's results, so that they can be handed over together.
        self.step_scope: Callable[[], AbstractContextManager[None]] = nullcontext
        self.on_fatal: Callable[[str], None] = lambda reason: None
        self.restarts = 0  # errors outside a batch, after each of which the loop was restarted
        self.failed = 0  # sequences that ended with an error
        self._condition = threading.Condition()
        self._formation = BatchFormation(self.scheduler.max_num_batched_tokens, config.batch_wait)
        self._admission = Admission(
            task_limit=config.queue_per_task,
            total_limit=config.queue_total,
            rates=lambda: self._formation.cost.rates,
        )
        self.scheduler.shared_tokens = lambda: self._formation.cost.shared_pass()[0]
        self._wanted = 0  # waiting sequences before which a wait for them does not end
        self._inbox: list[Request] = []
        self._aborted: list[Request] = []
        self._unfinished: set[Request] = set()  # submitted, and neither answered nor failed
        self._rejection_reason: str | None = None  # why requests are rejected; None: they are accepted
        self._aborting = False  # whether `stop` gave up waiting for the remaining requests
        self._last_step_ok = True  # whether the last step raised no error
        self._failure_times: deque[float] = deque(maxlen=_MAX_FAILURES)
        self._incoming: deque[Request] = deque()  # taken from the inbox, and not yet added to the scheduler
        self._batch: ScheduledBatch | None = None  # the running batch
        self._threads = config.threads
        self._thread_ready = threading.Event()
        self.busy_since: float | None = None  # when the running step began, by `time.monotonic()`
        self.hangs = False  # whether somebody has found that the running step never ends: nobody waits for it
        self._ended = False  # whether the loop has ended for good
        self._thread = threading.Thread(target=self._supervise, name="model", daemon=True)

    # ---- from any thread

    def start(self) -> None:
        """Starts the model's thread and the detokenizer's thread."""
        self.detokenizer.start()
        self._thread.start()
        self._thread_ready.wait()

    @property
    def healthy(self) -> bool:
        """Whether the model's thread is alive and its last step raised no error."""
        return self._last_step_ok and self._thread.is_alive()

    def reserve(self, wanted: Reservation, seconds_left: float) -> None:
        """Keeps room for a request before it is tokenised; its request then brings the reservation, or it is given
        back. Raises Overloaded or NotReady.

        `seconds_left`: how long anybody waits for the answer.
        """
        with self._condition:
            if self._rejection_reason is not None:
                raise NotReady(self._rejection_reason)
            self._admission.reserve(wanted, seconds_left)

    def give_back(self, reservation: Reservation) -> None:
        """A reservation is not needed."""
        with self._condition:
            self._admission.give_back(reservation)

    @property
    def alive(self) -> bool:
        """Whether the model's thread runs, or has nothing more to do."""
        return self._thread.is_alive() or self._ended or self._thread.ident is None

    def revive(self) -> None:
        """Starts the model's thread again where it has died. Running requests fail, and what waits is answered."""
        if not self.alive:
            died = RuntimeError("the model's thread has died")
            self._thread = threading.Thread(target=self._supervise, args=(died,), name="model", daemon=True)
            self._thread.start()

    def submit(self, requests: Many[Request]) -> None:
        """Queues requests together, so that they can share a batch. Raises Overloaded or NotReady for all of them."""
        with self._condition:
            if self._rejection_reason is not None:
                raise NotReady(self._rejection_reason)
            self._admission.admit(requests)
            self._inbox.extend(requests)
            self._unfinished.update(requests)
            if self._admission.total >= self._wanted:
                self._condition.notify_all()
        for request in requests:
            request.future.add_done_callback(partial(self._on_done, request))

    def cancel(self, request: Request) -> None:
        """Aborts a request. Sequences of the running batch are computed all the same, and their outputs dropped."""
        request.future.cancel()

    def limit_queues(self, per_task: int, total: int) -> None:
        """How many sequences of one task, and of all, may wait from now on; those that wait stay."""
        with self._condition:
            self._admission.task_limit, self._admission.total_limit = per_task, total

    @property
    def window(self) -> int:
        """How many inputs of one client may be under way while others who ask for little are there: a few passes."""
        window = self._formation.cost.window()
        return window if self.cache is None else max(window, 2 * self.scheduler.max_num_seqs)

    def waiting(self) -> dict[str, int]:
        """The number of waiting sequences by task."""
        with self._condition:
            return self._admission.waiting()

    def requests(self) -> tuple[list[Request], list[Request]]:
        """The requests that have begun, and those that wait."""
        with self._condition:
            unfinished = list(self._unfinished)
        return [one for one in unfinished if one.started], [one for one in unfinished if not one.started]

    def stop(self, timeout: float) -> bool:
        """Rejects new requests and waits up to `timeout` seconds for the submitted ones; the rest fails with NotReady.

        Returns after the running batch has ended too; False where that takes too long.
        """
        with self._condition:
            self._rejection_reason = self._rejection_reason or _SHUTTING_DOWN
            self._condition.notify_all()
        if self._thread.ident is None:  # the engine was never started
            self._shut_down()
            return True
        self._thread.join(0 if self.hangs else timeout)
        with self._condition:
            self._aborting = True
            queued = [request for request in self._unfinished if not request.started]
            self._condition.notify_all()
        for request in queued:  # the others may be in the running batch
            set_future(request.future, NotReady(_SHUTTING_DOWN))
        self._thread.join(0 if self.hangs else _LAST_BATCH_TIMEOUT)
        if not self.alive:  # it has died meanwhile
            self._shut_down()
        return not self._thread.is_alive()

    def _on_done(self, request: Request, _: Future[None]) -> None:
        """Called when a request's future is done, in any thread."""
        if request not in self._unfinished:  # `_deliver` has removed it, together with its batch's others
            return
        with self._condition:
            self._admission.remove(request)
            self._unfinished.discard(request)
            if request.future.cancelled() or request.future.exception() is not None:
                self._aborted.append(request)
                self._condition.notify_all()

    # ---- the model's thread

    def step(self) -> bool:
        """Runs one batch. Returns False where nothing could run."""
        self._drain_inbox()
        with torch.inference_mode():
            if self.pass_bound.lowered:
                self.pass_bound.recover()
                self.lanes.limit(self.pass_bound.tokens)
            batch = self._batch = self.lanes.schedule()
            self._update_waiting_counts()
            self._end_expired()
            if batch is None:
                self.runner.drop_plan()
                return False
            begin = time.monotonic()
            outputs = self.runner.execute(batch)
            self._formation.cost.add(batch.tokens, time.monotonic() - begin, len(batch.sequences))
            outputs = self.lanes.update(batch, outputs)
        if self.lanes.idle or any(output.finished is not None for output in outputs):
            self.runner.drop_plan()
        waiting = self._deliver(outputs)
        self._formation.passed(_answered(outputs), batch.tokens, waiting)
        self._batch = None
        return True

    def _end_expired(self) -> None:
        """Ends the requests that nobody waits for any more, which were not computed."""
        for request in self.lanes.take_expired():
            set_future(request.future, DeadlineExceeded("the time for the answer was over before it was computed"))

    def _drain_inbox(self) -> None:
        """Passes new and aborted requests on to the scheduler."""
        with self._condition:
            self._incoming.extend(self._inbox)
            self._inbox.clear()
            aborted, self._aborted = self._aborted, []
        while self._incoming:
            self.lanes.add(self._incoming[0])
            self._incoming.popleft()
        if aborted:
            self.lanes.abort(*aborted)

    def _update_waiting_counts(self) -> None:
        """Updates the counts of waiting sequences after scheduling and preemption."""
        scheduled, preempted = self.lanes.take_moves()
        if scheduled or preempted:
            with self._condition:
                self._admission.mark_scheduled(scheduled)
                self._admission.mark_waiting(preempted)

    def _deliver(self, outputs: Many[SequenceOutput]) -> int:
        """Completes the requests that one pass answers; outputs of generating sequences go to the detokenizer.

        Returns how many sequences wait.
        """
        generated = [output for output in outputs if output.sequence.sampling is not None]
        if generated:
            self.detokenizer.put(generated)
        failed = [output for output in outputs if output.error is not None]
        self.failed += len(failed)
        answered: list[Request] = []
        for output in outputs:
            if output.sequence.sampling is None and output.error is None:
                request = output.sequence.request
                request.unfinished -= 1
                if not request.unfinished:
                    answered.append(request)
        with self._condition:
            waiting = self._admission.total
            for request in answered:  # here, and not when each one's future is done: that takes the lock once
                self._admission.remove(request)
            self._unfinished.difference_update(answered)
        with self.step_scope():
            for output in failed:
                if output.sequence.sampling is None:
                    set_future(output.sequence.request.future, output.error)
            for request in answered:
                set_future(request.future, None)
        return waiting

    def _wait(self) -> bool:
        """Waits until there is work. Returns False where the thread must end."""
        with self._condition:
            while not self._inbox and not self._aborted and self.lanes.idle:
                if self._rejection_reason is not None:
                    return False
                self._last_step_ok = True
                self._condition.wait()
            return not self._aborting

    def _form_batch(self) -> None:
        """Waits for the clients that the last pass answered, where that makes the next one fuller."""
        with self._condition:
            hurried = self.lanes.generating or self.scheduler.shares.crowded()
            wanted = None if hurried else self._formation.wait(self._admission.total)
            if wanted is None or self._rejection_reason is not None:
                return
            self._wanted = wanted.sequences
            try:
                self._condition.wait_for(self._formed, wanted.deadline - time.monotonic())
            finally:
                self._wanted = 0
            self._formation.waited(wanted, self._admission.total)

    def _formed(self) -> bool:
        """Whether a wait for further sequences has ended before its time."""
        return self._admission.total >= self._wanted or bool(self._aborted) or self._rejection_reason is not None

    def _loop(self) -> None:
        """Runs steps until the engine is stopped and no request is left."""
        while self._wait():
            self._form_batch()
            self.busy_since = time.monotonic()
            ran = self.step()
            self.busy_since = None
            self._last_step_ok = True
            if not ran and not self.lanes.idle:
                with self._condition:
                    self._condition.wait(_IDLE_RETRY_SECONDS)

    # ---- supervision

    def _supervise(self, died: BaseException | None = None) -> None:
        """The thread's function: runs the loop, and restarts it after an error outside a batch, unless they repeat.
        `died`: why the thread before it has ended."""
        self.busy_since = None
        if self._threads:
            set_compute_threads(self._threads)
        self._thread_ready.set()
        reason = None if died is None else self._recover(died)
        while reason is None:
            try:
                self._loop()
                break
            except BaseException as error:
                self.busy_since = None
                self._last_step_ok = False
                reason = self._recover(error)
        self._ended = True
        self._shut_down()
        if reason is not None:
            self.on_fatal(reason)

    def _recover(self, error: BaseException) -> str | None:
        """Fails the running requests. Returns the reason where the engine gives up, else None."""
        logger.critical("the model's thread failed outside a batch", exc_info=error)
        self.restarts += 1
        self._failure_times.append(time.monotonic())
        failure = EngineFailure("the server failed on this request; its log says why")
        try:
            running = self.lanes.abort_running()
            running += [one.sequence for one in self._batch.sequences] if self._batch is not None else []
            self._batch = None
            self.runner.drop_plan()
            self._update_waiting_counts()
            self.failed += len(set(running))
            for request in [*self._incoming, *{sequence.request for sequence in running}]:
                set_future(request.future, failure)
            self._incoming.clear()
        except Exception as second:
            logger.critical("the running requests could not be aborted", exc_info=second)
            return f"the model's thread failed with {error!r}, and could not abort the running requests: {second!r}"
        if (
            len(self._failure_times) == _MAX_FAILURES
            and self._failure_times[-1] - self._failure_times[0] < _FAILURE_WINDOW
        ):
            return (
                f"the model's thread failed {_MAX_FAILURES} times within {_FAILURE_WINDOW:g} s, the last time with "
                f"{error!r}"
            )
        return None

    def _shut_down(self) -> None:
        """Fails all unfinished requests, after the loop has ended."""
        with self._condition:
            reason = self._rejection_reason = (
                self._rejection_reason or "the engine has given up; the server's log says why"
            )
        self.detokenizer.stop(_DETOKENIZER_TIMEOUT)  # first, so that it delivers the outputs that are queued
        with self._condition:
            left = list(self._unfinished)
        for request in left:
            set_future(request.future, NotReady(reason))


def _answered(outputs: Many[SequenceOutput]) -> int:
    """How many sequences one pass has answered."""
    return sum(output.sequence.sampling is None and output.error is None for output in outputs)
