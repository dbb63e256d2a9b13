"""The model's one thread: schedule, execute, update. Requests come in and go out beside it.

Everything that knows of sequences' places, blocks and passes belongs to that thread, under no lock. `submit` and
`cancel` only count, append to an inbox and wake it. The thread is supervised: an error outside a batch fails what is
under way, and the loop goes on with its queue; if that happens again and again, the engine gives up and says why.
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
from dataclasses import dataclass
from functools import partial

import torch

from manyhats.backbone import Backbone
from manyhats.core.batch import ScheduledBatch, SequenceOutput
from manyhats.core.sequence import Request
from manyhats.engine.admission import Admission
from manyhats.engine.compute_threads import keep_threads
from manyhats.engine.detokenizer import Detokenizer
from manyhats.engine.kv_cache import KVCache
from manyhats.engine.runner import Runner
from manyhats.engine.scheduler import Scheduler
from manyhats.engine.set_future import set_future
from manyhats.errors import EngineFailure, NotReady

logger = logging.getLogger(__name__)

_LOOK_AGAIN = 0.05  # seconds, where sequences wait and none can run
_DEATHS = 5  # so many errors outside a batch within `_WITHIN` seconds, and the engine gives up
_WITHIN = 60.0
_STOPPING = "the server is shutting down"
_LAST_PASS = 30.0  # seconds that a pass under way may take, after the time to stop is over
_LAST_TEXTS = 5.0  # seconds for the texts of the last passes


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How much runs at once, and how much may wait.

    `max_num_batched_tokens`: the most tokens of one pass; `max_num_seqs`: the most sequences that generate at once;
    `cache_bytes`: room for their keys and values; `queue_per_task`, `queue_total`: the most sequences that may wait.
    `threads`: of torch in the model's thread; 0: as many as others have.
    """

    max_num_batched_tokens: int
    max_num_seqs: int = 64
    cache_bytes: int = 1 << 30
    queue_per_task: int = 4096
    queue_total: int = 16384
    threads: int = 0


class Engine:
    """Runs requests on the backbone. `submit`, `cancel` and `waiting` may be called from any thread.

    `on_fatal` is called with a reason, in the model's thread, when the engine gives up: the process must end then.
    """

    def __init__(self, backbone: Backbone, config: EngineConfig) -> None:
        self.backbone = backbone
        self.cache = KVCache(backbone, config.cache_bytes) if backbone.has_language_model else None
        self.scheduler = Scheduler(
            self.cache, max_num_batched_tokens=config.max_num_batched_tokens, max_num_seqs=config.max_num_seqs
        )
        self.runner = Runner(backbone, self.cache)
        self.detokenizer = Detokenizer()
        # What the end of a pass gives to others: all of it together.
        self.step_scope: Callable[[], AbstractContextManager[None]] = nullcontext
        self.on_fatal: Callable[[str], None] = lambda reason: None
        self.restarts = 0  # errors outside a batch, after which the loop began anew
        self.failed = 0  # sequences that ended with an error
        self._changed = threading.Condition()
        self._admission = Admission(task_limit=config.queue_per_task, total_limit=config.queue_total)
        self._inbox: list[Request] = []
        self._aborted: list[Request] = []
        self._open: set[Request] = set()  # neither answered nor failed
        self._refusing: str | None = None  # why no request is taken in any more
        self._ending = False  # whether what is left is given up
        self._well = True  # whether the last step was in order
        self._deaths: deque[float] = deque(maxlen=_DEATHS)
        self._arriving: deque[Request] = deque()  # out of the inbox, and not yet with the scheduler
        self._batch: ScheduledBatch | None = None  # under way
        self._threads = config.threads
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="model", daemon=True)

    # ---- from any thread

    def start(self) -> None:
        """Starts the model's thread, and the detokenizer's beside it."""
        self.detokenizer.start()
        self._thread.start()
        self._begun.wait()

    @property
    def healthy(self) -> bool:
        """Whether the model's thread is at work, and its last step was in order."""
        return self._well and self._thread.is_alive()

    def submit(self, requests: Many[Request]) -> None:
        """Queues requests together, so that they can share a batch. Raises Overloaded or NotReady, for all of them."""
        with self._changed:
            if self._refusing is not None:
                raise NotReady(self._refusing)
            self._admission.admit(requests)
            self._inbox.extend(requests)
            self._open.update(requests)
            self._changed.notify_all()
        for request in requests:
            request.future.add_done_callback(partial(self._close, request))

    def cancel(self, request: Request) -> None:
        """Takes a request out; sequences that are in a pass already are computed and dropped."""
        request.future.cancel()

    def waiting(self) -> dict[str, int]:
        """Sequences that wait, by task."""
        with self._changed:
            return self._admission.waiting()

    def stop(self, timeout: float) -> bool:
        """Takes no more requests, and waits up to `timeout` seconds for those that are there; the rest fails with
        NotReady. Returns when the pass under way has ended too; False where that takes too long."""
        with self._changed:
            self._refusing = self._refusing or _STOPPING
            self._changed.notify_all()
        if self._thread.ident is None:  # it was never started
            self._end()
            return True
        self._thread.join(timeout)
        with self._changed:
            self._ending = True
            queued = [request for request in self._open if not request.started]
            self._changed.notify_all()
        for request in queued:  # the others may be in the pass under way
            set_future(request.future, NotReady(_STOPPING))
        self._thread.join(_LAST_PASS)
        return not self._thread.is_alive()

    def _close(self, request: Request, _: Future[None]) -> None:
        """A request is done, in whichever thread: nobody waits for it any more."""
        with self._changed:
            self._admission.forget(request)
            self._open.discard(request)
            if request.future.cancelled() or request.future.exception() is not None:
                self._aborted.append(request)
                self._changed.notify_all()

    # ---- the model's thread

    def step(self) -> bool:
        """One pass; False where there was nothing to run."""
        self._take_in()
        with torch.inference_mode():
            batch = self._batch = self.scheduler.schedule()
            self._count_places()
            if batch is None:
                self.runner.forget()
                return False
            outputs = self.runner.execute(batch)
            outputs = self.scheduler.update(batch, outputs)
        if self.scheduler.idle or any(output.finished is not None for output in outputs):
            self.runner.forget()
        self._answer(outputs)
        self._batch = None
        return True

    def _take_in(self) -> None:
        """What came since the last step."""
        with self._changed:
            self._arriving.extend(self._inbox)
            self._inbox.clear()
            aborted, self._aborted = self._aborted, []
        while self._arriving:
            self.scheduler.add(self._arriving[0])
            self._arriving.popleft()
        if aborted:
            self.scheduler.abort(*aborted)

    def _count_places(self) -> None:
        """Tells the queue's counts who got a place, and who lost it."""
        placed, self.scheduler.placed = self.scheduler.placed, []
        displaced, self.scheduler.displaced = self.scheduler.displaced, []
        if placed or displaced:
            with self._changed:
                self._admission.placed(placed)
                self._admission.displaced(displaced)

    def _answer(self, outputs: Many[SequenceOutput]) -> None:
        """To those who wait: here for what one pass answers; texts are the detokenizer's."""
        texts = [output for output in outputs if output.sequence.sampling is not None]
        if texts:
            self.detokenizer.put(texts)
        self.failed += sum(output.error is not None for output in outputs)
        with self.step_scope():
            for output in outputs:
                request = output.sequence.request
                if output.sequence.sampling is not None:
                    continue
                if output.error is not None:
                    set_future(request.future, output.error)
                    continue
                request.unfinished -= 1
                if not request.unfinished:
                    set_future(request.future, None)

    def _wait(self) -> bool:
        """Until there is something to do; False at the end."""
        with self._changed:
            while not self._inbox and not self._aborted and self.scheduler.idle:
                if self._refusing is not None:
                    return False
                self._well = True
                self._changed.wait()
            return not self._ending

    def _loop(self) -> None:
        """Steps until there is nothing left to do, and nothing will come."""
        while self._wait():
            ran = self.step()
            self._well = True
            if not ran and not self.scheduler.idle:
                with self._changed:
                    self._changed.wait(_LOOK_AGAIN)

    # ---- supervision

    def _supervise(self) -> None:
        """What the thread runs: the loop, again after each error outside a batch, unless they come one upon another."""
        if self._threads:
            keep_threads(self._threads)
        self._begun.set()
        reason = None
        while reason is None:
            try:
                self._loop()
                break
            except BaseException as error:
                self._well = False
                reason = self._recover(error)
        self._end()
        if reason is not None:
            self.on_fatal(reason)

    def _recover(self, error: BaseException) -> str | None:
        """Fails what is under way. Returns why the engine gives up, where it does."""
        logger.critical("the model's thread failed outside a batch", exc_info=error)
        self.restarts += 1
        self._deaths.append(time.monotonic())
        failure = EngineFailure("the server failed on this request; its log says why")
        try:
            under_way = self.scheduler.abort_running()
            under_way += [one.sequence for one in self._batch.sequences] if self._batch is not None else []
            self._batch = None
            self.runner.forget()
            self._count_places()
            self.failed += len(set(under_way))
            for request in [*self._arriving, *{sequence.request for sequence in under_way}]:
                set_future(request.future, failure)
            self._arriving.clear()
        except Exception as second:
            logger.critical("what was under way cannot be given up", exc_info=second)
            return f"the model's thread failed with {error!r}, and cannot give up what was under way: {second!r}"
        if len(self._deaths) == _DEATHS and self._deaths[-1] - self._deaths[0] < _WITHIN:
            return f"the model's thread failed {_DEATHS} times within {_WITHIN:g} s, the last time with {error!r}"
        return None

    def _end(self) -> None:
        """Nothing runs any more: what is left fails."""
        with self._changed:
            reason = self._refusing = self._refusing or "the engine has given up; the server's log says why"
        self.detokenizer.stop(_LAST_TEXTS)  # tells first of what has been put
        with self._changed:
            left = list(self._open)
        for request in left:
            set_future(request.future, NotReady(reason))
