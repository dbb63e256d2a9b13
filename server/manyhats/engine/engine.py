"""The model's one thread: runs the scheduler's batches and the generator's passes in turn, and gives answers back."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from manyhats.backbone import Backbone
from manyhats.engine.forward import forward
from manyhats.engine.generator import Generator, Turn
from manyhats.engine.scheduler import Scheduler
from manyhats.engine.settle import settle
from manyhats.engine.stream import Writing
from manyhats.engine.work import BatchReport, Item, Output, Work
from manyhats.errors import NotReady
from manyhats.methods.adapter import BoundAdapter
from manyhats.methods.plan import in_batch_order

logger = logging.getLogger(__name__)

_LOOK_AGAIN = 0.05  # seconds, where texts wait and none can run


class Engine:
    """Runs work on the backbone. `submit` and `cancel` may be called from any thread.

    `generator`: for backbones that continue texts.
    """

    def __init__(self, backbone: Backbone, scheduler: Scheduler, generator: Generator | None = None) -> None:
        self.backbone = backbone
        self.generator = generator
        self._scheduler = scheduler
        self._changed = threading.Condition()
        self._stopping = False
        self._ids = itertools.count(1)
        self._thread = threading.Thread(target=self._loop, name="model", daemon=True)
        # What the end of a pass gives to others: all of it together.
        self.step_scope: Callable[[], AbstractContextManager[None]] = nullcontext
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
        late = NotReady("the server is shutting down")
        with self._changed:
            while batch := self._scheduler.next_batch():
                for work in {item.work for item in batch}:
                    settle(work.future, late)
            if self.generator is not None:
                self.generator.abandon(late)

    def submit(self, works: Sequence[Work | Writing]) -> None:
        """Queues works together, so that they can share a batch. Raises Overloaded or NotReady."""
        passes = [work for work in works if isinstance(work, Work)]
        texts = [work for work in works if isinstance(work, Writing)]
        with self._changed:
            if self._stopping:
                raise NotReady("the server is shutting down")
            self._scheduler.admit([(work.task, len(work.rows)) for work in passes] + self._texts_waiting(texts))
            for work in passes:
                self._scheduler.add(work)
            for writing in texts:
                assert self.generator is not None
                self.generator.add(writing)
            self._changed.notify_all()

    def _texts_waiting(self, more: Sequence[Writing]) -> list[tuple[str, int]]:
        """Texts that wait, and those that would join them."""
        if not more or self.generator is None:
            return []
        return [*self.generator.waiting().items(), *((writing.task, len(writing.streams)) for writing in more)]

    def cancel(self, work: Work | Writing) -> None:
        """Takes a work out; rows that are in a pass already are computed and dropped, texts leave at its end."""
        with self._changed:
            work.future.cancel()
            if isinstance(work, Work):
                self._scheduler.remove(work)
            self._changed.notify_all()

    def waiting(self) -> dict[str, int]:
        """Rows and texts that wait, by task."""
        with self._changed:
            counts = Counter(self._scheduler.waiting())
            if self.generator is not None:
                counts.update(self.generator.waiting())
            return dict(counts)

    # ---- the model's thread

    def _loop(self) -> None:
        while (following := self._next()) is not None:
            batch, turn = following
            try:
                if batch:
                    self._step(batch)
                if turn:
                    self._write(turn)
            except Exception as error:  # must not end the thread
                logger.exception("a batch failed outside the model")
                for item in batch:
                    settle(item.work.future, error)
                for stream, _ in turn:
                    settle(stream.writing.future, error)

    def _next(self) -> tuple[list[Item], Turn] | None:
        """What runs next; None at the end."""
        with self._changed:
            while True:
                writes = self.generator is not None and not self.generator.idle
                if self._scheduler.total or writes:
                    batch = self._scheduler.next_batch()
                    turn = self._arrange() if writes else []
                    if batch or turn:
                        return batch, turn
                elif self._stopping:
                    return None
                self._changed.wait(_LOOK_AGAIN if writes else None)

    def _arrange(self) -> Turn:
        assert self.generator is not None
        try:
            return self.generator.arrange()
        except Exception as error:  # must not end the thread
            logger.exception("the texts under way cannot be arranged")
            self.generator.abandon(error)
            return []

    def _write(self, turn: Turn) -> None:
        """One pass of the texts under way."""
        assert self.generator is not None
        begin = time.monotonic()
        for stream, _ in turn:
            stream.writing.started = stream.writing.started or begin

        def report() -> None:
            adapters = [(stream.writing, stream.adapter) for stream, _ in turn]
            self._report(adapters, sum(count for _, count in turn), begin)

        with self.step_scope():
            self.generator.advance(turn, report)

    def _step(self, batch: list[Item]) -> None:
        batch = in_batch_order(batch, lambda item: item.row.adapter)
        begin = time.monotonic()
        for item in batch:
            item.work.started = item.work.started or begin
        try:
            with torch.inference_mode():
                outputs = _to_host(forward(self.backbone, [item.row for item in batch]))
        except Exception as error:
            self._step_apart(batch, error)
            return
        self._report([(item.work, item.row.adapter) for item in batch], sum(item.tokens for item in batch), begin)
        with self.step_scope():
            for item, output in zip(batch, outputs, strict=True):
                work = item.work
                work.outputs[item.index] = output
                work.left -= 1
                if not work.left:
                    _finish(work)

    def _report(self, adapters: Sequence[tuple[Work | Writing, BoundAdapter]], tokens: int, begin: float) -> None:
        """Tells of a pass, and every work in it. `adapters`: by sequence, its work and the adapter that it wore."""
        report = BatchReport(
            id=next(self._ids),
            tasks=dict(Counter(work.task for work, _ in adapters)),
            methods=tuple(sorted({adapter.method for _, adapter in adapters})),
            sequences=len(adapters),
            tokens=tokens,
            seconds=time.monotonic() - begin,
        )
        self.on_batch(report)
        for work in {work for work, _ in adapters}:
            work.compute += report.seconds
            work.batch = report

    def _step_apart(self, batch: list[Item], error: Exception) -> None:
        """After a failure: each adapter's rows by themselves, so that one adapter's fault stays its own."""
        adapters = list({id(item.row.adapter): item.row.adapter for item in batch}.values())
        if len(adapters) == 1:
            logger.error("a batch of the task %s failed", batch[0].work.task, exc_info=error)
            for item in batch:
                settle(item.work.future, error)
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
    settle(work.future, outputs)
