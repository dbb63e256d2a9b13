"""The model's one thread: takes batches from the scheduler, runs them, and gives the answers back."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress

import torch
from torch import Tensor

from manyhats.backbone import Backbone
from manyhats.engine.forward import forward
from manyhats.engine.scheduler import Scheduler
from manyhats.engine.work import BatchReport, Item, Output, Work
from manyhats.errors import NotReady
from manyhats.methods.plan import batch_order

logger = logging.getLogger(__name__)


class Engine:
    """Runs work on the backbone. `submit` and `cancel` may be called from any thread."""

    def __init__(self, backbone: Backbone, scheduler: Scheduler) -> None:
        self.backbone = backbone
        self._scheduler = scheduler
        self._changed = threading.Condition()
        self._stopping = False
        self._ids = itertools.count(1)
        self._thread = threading.Thread(target=self._loop, name="model", daemon=True)
        self.on_batch: Callable[[BatchReport], None] = lambda report: None

    def start(self) -> None:
        """Starts the model's thread."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Takes no more work, and waits up to `timeout` seconds for what is there; the rest fails with NotReady."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(timeout)
        with self._changed:
            while batch := self._scheduler.next_batch():
                for work in {item.work for item in batch}:
                    _fail(work, NotReady("the server is shutting down"))

    def submit(self, works: Sequence[Work]) -> None:
        """Queues works together, so that they can share a batch. Raises Overloaded or NotReady."""
        with self._changed:
            if self._stopping:
                raise NotReady("the server is shutting down")
            self._scheduler.admit(works)
            for work in works:
                self._scheduler.add(work)
            self._changed.notify_all()

    def cancel(self, work: Work) -> None:
        """Takes a work out of the queue; rows that are in a batch already are computed and dropped."""
        with self._changed:
            work.future.cancel()
            self._scheduler.remove(work)

    def waiting(self) -> dict[str, int]:
        """Rows that wait, by task."""
        with self._changed:
            return self._scheduler.waiting()

    # ---- the model's thread

    def _loop(self) -> None:
        while batch := self._next_batch():
            try:
                self._step(batch)
            except Exception as error:  # must not end the thread
                logger.exception("a batch failed outside the model")
                for item in batch:
                    _fail(item.work, error)

    def _next_batch(self) -> list[Item]:
        with self._changed:
            while not self._scheduler.total and not self._stopping:
                self._changed.wait()
            return self._scheduler.next_batch()

    def _step(self, batch: list[Item]) -> None:
        order = {id(item.row.adapter): i for i, item in enumerate(batch)}
        batch.sort(key=lambda item: (batch_order(item.row.adapter), order[id(item.row.adapter)]))
        begin = time.monotonic()
        for item in batch:
            item.work.started = item.work.started or begin
        try:
            with torch.inference_mode():
                outputs = _to_host(forward(self.backbone, [item.row for item in batch]))
        except Exception as error:
            self._step_apart(batch, error)
            return
        seconds = time.monotonic() - begin
        report = BatchReport(
            id=next(self._ids),
            tasks=dict(Counter(item.work.task for item in batch)),
            methods=tuple(sorted({item.row.adapter.method for item in batch})),
            sequences=len(batch),
            tokens=sum(item.tokens for item in batch),
            seconds=seconds,
        )
        self.on_batch(report)
        for work in {item.work for item in batch}:
            work.compute += seconds
            work.batch = report
        again: list[Item] = []
        for item, output in zip(batch, outputs, strict=True):
            work = item.work
            if work.follow is not None and (following := work.follow(item.index, output)) is not None:
                work.rows[item.index] = following
                again.append(item)
                continue
            work.outputs[item.index] = output
            work.left -= 1
            if not work.left:
                _finish(work)
        if again:
            with self._changed:
                self._scheduler.again(item for item in reversed(again) if not item.work.future.cancelled())

    def _step_apart(self, batch: list[Item], error: Exception) -> None:
        """After a failure: each adapter's rows by themselves, so that one adapter's fault stays its own."""
        adapters = list({id(item.row.adapter): item.row.adapter for item in batch}.values())
        if len(adapters) == 1:
            logger.error("a batch of the task %s failed", batch[0].work.task, exc_info=error)
            for item in batch:
                _fail(item.work, error)
            return
        for adapter in adapters:
            self._step([item for item in batch if item.row.adapter is adapter])


def _to_host(outputs: Sequence[Tensor]) -> list[Output]:
    """All outputs in float32, in one copy from the device."""
    flat: Output = torch.cat([output.reshape(-1) for output in outputs]).float().cpu().numpy()
    ends = itertools.accumulate(output.numel() for output in outputs)
    return [
        flat[end - output.numel() : end].reshape(tuple(output.shape)) for output, end in zip(outputs, ends, strict=True)
    ]


def _finish(work: Work) -> None:
    outputs = [output for output in work.outputs if output is not None]
    _settle(work.future, lambda: work.future.set_result(outputs))


def _fail(work: Work, error: Exception) -> None:
    _settle(work.future, lambda: work.future.set_exception(error))


def _settle(future: Future[list[Output]], settle: Callable[[], None]) -> None:
    if future.done():
        return
    with suppress(Exception):  # cancelled between the two lines
        settle()
