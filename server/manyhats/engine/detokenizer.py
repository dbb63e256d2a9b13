"""Incremental detokenization in a thread of its own: decodes tokens to text and looks for stop strings."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from manyhats.backbone import Tokenizer
from manyhats.core.batch import SequenceOutput
from manyhats.core.sequence import Delta
from manyhats.engine.set_future import set_future
from manyhats.errors import EngineFailure, NotReady

logger = logging.getLogger(__name__)

_MAX_QUEUED_STEPS = 64  # with more, the model's thread is slowed down
_BACKPRESSURE_SECONDS = 0.01  # how long it then waits at each step


class IncrementalDetokenizer:
    """Decodes the tokens of one sequence incrementally.

    Text is buffered while it may end inside a character, or may be the beginning of a stop string. The emitted chunks
    together equal the text that decoding all tokens at once gives, up to the stop string. A stop string is found only
    where it ends after the first `stop_after` tokens. `keep_stop`: the stop string is part of the text.
    `skip_special`: special tokens are left out of the text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[str] = (),
        *,
        keep_stop: bool = False,
        stop_after: int = 0,
        skip_special: bool = True,
    ) -> None:
        self.skip_special = skip_special
        self._decoder = tokenizer.decode_stream(skip_special=skip_special)
        self._stops = tuple(stops)
        self._keep_stop = keep_stop
        self._stop_after = stop_after
        self._count = 0  # tokens so far
        self._decoded = ""  # all text so far, emitted or buffered
        self._emitted = 0  # how many of its characters were emitted
        self.stop: str | None = None  # the stop string that was found

    @property
    def text(self) -> str:
        """The text that has been emitted."""
        return self._decoded[: self._emitted]

    def push(self, token: int) -> str:
        """Adds a token. Returns the text that can be emitted."""
        self._count += 1
        return self._add(self._decoder.push(token))

    def finish(self) -> str:
        """Ends the sequence. Returns the text that was buffered."""
        if self.stop is None:
            chunk = self._add(self._decoder.finish())
            if self.stop is None:
                chunk += self._emit(len(self._decoded))
            return chunk
        return ""

    def _add(self, new: str) -> str:
        if not new:
            return ""
        begin = len(self._decoded)
        self._decoded += new
        found = self._find_stop(begin) if self._count > self._stop_after else None
        if found is not None:
            start, self.stop = found
            return self._emit(start + len(self.stop) if self._keep_stop else start)
        return self._emit(len(self._decoded) - self._buffered_length())

    def _find_stop(self, begin: int) -> tuple[int, str] | None:
        """The stop string that ends first, and where it starts, in text that is new from `begin` on."""
        found: list[tuple[int, int, str]] = []
        for stop in self._stops:
            start = self._decoded.find(stop, max(begin - len(stop) + 1, 0))
            if start >= 0:
                found.append((start + len(stop), start, stop))
        return min(found)[1:] if found else None

    def _buffered_length(self) -> int:
        """How many characters at the end may be the beginning of a stop string."""
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(self._decoded)), longest, -1):
                if self._decoded.endswith(stop[:size]):
                    longest = size
                    break
        return longest

    def _emit(self, end: int) -> str:
        chunk = self._decoded[self._emitted : end]
        self._emitted = max(self._emitted, end)
        if self.stop is not None:
            self._decoded = self._decoded[: self._emitted]
        return chunk


class Detokenizer:
    """The thread that decodes the tokens of all generating sequences and passes the text to their requests' listeners.

    Only this thread writes `emitted_tokens`, `token_times` and `finish_reason` of sequences, and sets the future of a
    request that generates when all its texts have ended. An error in a sequence's decoder or listener fails its request
    alone. Any other error is logged and counted, and fails the requests of that step; the thread continues.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._steps: deque[list[SequenceOutput]] = deque()
        self._stopping = False
        self._handling: list[SequenceOutput] | None = None  # the step that is being processed
        self.busy_since: float | None = None  # when it was begun, by `time.monotonic()`
        self._thread = threading.Thread(target=self._loop, name="detokenizer", daemon=True)
        self.step_scope: Callable[[], AbstractContextManager[None]] = nullcontext  # entered around each step
        self.failures = 0  # errors that were not one sequence's own

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs, was never started, or was told to end."""
        return self._thread.is_alive() or self._stopping or self._thread.ident is None

    def revive(self) -> None:
        """Starts the thread again where it has died. The requests of the step that it died in fail."""
        if self.alive:
            return
        self.failures += 1
        handling, self._handling = self._handling, None
        self._fail(handling or [], EngineFailure("the server failed on this request; its log says why"))
        self._thread = threading.Thread(target=self._loop, name="detokenizer", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """The number of queued steps."""
        return len(self._steps)

    def put(self, outputs: list[SequenceOutput]) -> None:
        """Queues the outputs of a step. Called by the model's thread.

        The queue is bounded by the tokens that the running sequences may still generate. Where many steps are queued,
        the caller waits up to 10 ms at each further step, so that this thread catches up.
        """
        if not outputs:  # no sequence of the step generates
            return
        with self._condition:
            if len(self._steps) >= _MAX_QUEUED_STEPS and not self._stopping:
                self._condition.wait_for(lambda: len(self._steps) < _MAX_QUEUED_STEPS, _BACKPRESSURE_SECONDS)
            self._steps.append(outputs)
            self._condition.notify_all()

    def stop(self, timeout: float) -> bool:
        """Ends the thread after the queued steps. Returns whether that took less than `timeout` seconds.

        The requests of steps that are left fail with NotReady.
        """
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout)
        with self._condition:
            left, self._steps = self._steps, deque()
        if not self._thread.is_alive() and self._handling is not None:  # it has died
            left.append(self._handling)
        self._fail([output for outputs in left for output in outputs], NotReady("the server is shutting down"))
        return not self._thread.is_alive()

    # ---- the detokenizer's thread

    def step(self) -> bool:
        """Processes the oldest queued step. Returns False where none is queued. Once the thread is started, only it may
        call this."""
        outputs = self._pop()
        if outputs is None:
            return False
        try:
            with self.step_scope():
                for output in outputs:
                    self._handle(output)
        except BaseException as error:  # no error may end the thread
            self.failures += 1
            logger.exception("the detokenizer failed on a step")
            self._fail(outputs, error if isinstance(error, Exception) else RuntimeError(repr(error)))
        self.busy_since = self._handling = None
        return True

    def _loop(self) -> None:
        self.busy_since = None
        while self._wait():
            self.step()

    def _wait(self) -> bool:
        """Waits until a step is queued. Returns False where the thread must end."""
        with self._condition:
            self._condition.wait_for(lambda: bool(self._steps) or self._stopping)
            return bool(self._steps)

    def _pop(self) -> list[SequenceOutput] | None:
        with self._condition:
            step = self._handling = self._steps.popleft() if self._steps else None
            self.busy_since = None if step is None else time.monotonic()
            self._condition.notify_all()
            return step

    def _handle(self, output: SequenceOutput) -> None:
        request = output.sequence.request
        try:
            _advance(output)
        except Exception as error:
            if error is not output.error:
                logger.error("a sequence of the task %s failed", request.task, exc_info=error)
            set_future(request.future, error)

    def _fail(self, outputs: Sequence[SequenceOutput], error: Exception) -> None:
        for output in outputs:
            set_future(output.sequence.request.future, error)


def _advance(output: SequenceOutput) -> None:
    """Adds an output to its sequence's text. Raises the output's error, and what the decoder or the listener raises."""
    sequence = output.sequence
    request = sequence.request
    if sequence.released:  # after a stop string, or the request is done
        return
    if output.error is not None:
        raise output.error
    decoder = sequence.decoder
    assert decoder is not None, "a sequence that generates has a decoder"
    token = None if output.token is sequence.ended_by else output.token  # an end token is not part of the text
    text = ""
    if token is not None:
        sequence.emitted_tokens.append(token)
        sequence.token_times.append(time.monotonic())
        text = decoder.push(token.token)
    reason = output.finished if decoder.stop is None else "stop"
    if reason is not None:
        text += decoder.finish()
        if decoder.stop is not None:  # found in the buffered text
            reason = "stop"
    if request.listener is not None:
        request.listener(Delta(sequence, text, token, reason))
    sequence.finish_reason = reason
    if reason is not None:
        request.unfinished -= 1
        if not request.unfinished:
            set_future(request.future, None)
