"""Tokens to text beside the model's thread: what may be shown already, and whether a stop string has come."""

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
from manyhats.errors import NotReady

logger = logging.getLogger(__name__)

_MOST_STEPS = 64  # that may wait before the model's thread is slowed down
_SLOWED = 0.01  # seconds, for a step


class IncrementalDetokenizer:
    """Turns the tokens of one sequence into text, piece by piece.

    A piece is held back while it may end inside a character, or may be the beginning of a stop string. The pieces
    together are what decoding all tokens at once gives, up to the stop string. A stop string counts that ends behind
    the first `stop_after` tokens. `skip_special`: special tokens are no text.
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
        self._count = 0  # tokens
        self._decoded = ""  # all of it, shown or not
        self._shown = 0
        self.stop: str | None = None  # the stop string that has come

    @property
    def text(self) -> str:
        """What has been shown."""
        return self._decoded[: self._shown]

    def push(self, token: int) -> str:
        """What may be shown after one more token."""
        self._count += 1
        return self._add(self._decoder.push(token))

    def finish(self) -> str:
        """What was held back until now."""
        if self.stop is None:
            piece = self._add(self._decoder.finish())
            if self.stop is None:
                piece += self._show(len(self._decoded))
            return piece
        return ""

    def _add(self, new: str) -> str:
        if not new:
            return ""
        begin = len(self._decoded)
        self._decoded += new
        found = self._find(begin) if self._count > self._stop_after else None
        if found is not None:
            place, self.stop = found
            return self._show(place + len(self.stop) if self._keep_stop else place)
        return self._show(len(self._decoded) - self._held())

    def _find(self, begin: int) -> tuple[int, str] | None:
        """The stop string that ends first, and where it begins."""
        found: list[tuple[int, int, str]] = []
        for stop in self._stops:
            place = self._decoded.find(stop, max(begin - len(stop) + 1, 0))
            if place >= 0:
                found.append((place + len(stop), place, stop))
        return min(found)[1:] if found else None

    def _held(self) -> int:
        """How many characters at the end may begin a stop string."""
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(self._decoded)), longest, -1):
                if self._decoded.endswith(stop[:size]):
                    longest = size
                    break
        return longest

    def _show(self, end: int) -> str:
        piece = self._decoded[self._shown : end]
        self._shown = max(self._shown, end)
        if self.stop is not None:
            self._decoded = self._decoded[: self._shown]
        return piece


class Detokenizer:
    """One thread that gives the texts of all sequences that generate, step by step, to those who listen.

    It alone writes `shown`, `token_times` and `finish_reason` of sequences, and sets the future of a request when all
    its texts have ended. What fails one sequence, its decoder or its listener, fails its request alone; any other error
    is logged and counted, fails what was in the same step, and the thread goes on.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._steps: deque[list[SequenceOutput]] = deque()
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="detokenizer", daemon=True)
        self.step_scope: Callable[[], AbstractContextManager[None]] = nullcontext  # around all of a step
        self.failures = 0  # errors outside of one sequence

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Steps that have not been begun."""
        return len(self._steps)

    def put(self, outputs: list[SequenceOutput]) -> None:
        """Takes what a step made. The model's thread calls it.

        What waits is bounded by what the sequences that run may still have: an output for each token. Where many steps
        wait, each further one is slowed down by 10 ms, so that this thread comes to its turn.
        """
        if not outputs:  # nothing that generates was in the step
            return
        with self._changed:
            if len(self._steps) >= _MOST_STEPS and not self._stopping:
                self._changed.wait_for(lambda: len(self._steps) < _MOST_STEPS, _SLOWED)
            self._steps.append(outputs)
            self._changed.notify_all()

    def stop(self, timeout: float) -> bool:
        """Ends the thread once it has done what waits; whether that took less than `timeout` seconds.

        What is left then fails with NotReady.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout)
        with self._changed:
            left, self._steps = self._steps, deque()
        self._fail([output for outputs in left for output in outputs], NotReady("the server is shutting down"))
        return not self._thread.is_alive()

    # ---- its thread

    def step(self) -> bool:
        """Does the oldest step that waits; False where none does. The thread's alone, once it is started."""
        outputs = self._take()
        if outputs is None:
            return False
        try:
            with self.step_scope():
                for output in outputs:
                    self._handle(output)
        except BaseException as error:  # must not end the thread, whatever it is
            self.failures += 1
            logger.exception("the texts of a step failed")
            self._fail(outputs, error if isinstance(error, Exception) else RuntimeError(repr(error)))
        return True

    def _loop(self) -> None:
        while self._wait():
            self.step()

    def _wait(self) -> bool:
        """Until a step waits; False at the end."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._steps) or self._stopping)
            return bool(self._steps)

    def _take(self) -> list[SequenceOutput] | None:
        with self._changed:
            taken = self._steps.popleft() if self._steps else None
            self._changed.notify_all()
            return taken

    def _handle(self, output: SequenceOutput) -> None:
        request = output.sequence.request
        try:
            _advance(output)
        except Exception as error:
            if error is not output.error:
                logger.error("a text of the task %s failed", request.task, exc_info=error)
            set_future(request.future, error)

    def _fail(self, outputs: Sequence[SequenceOutput], error: Exception) -> None:
        for output in outputs:
            set_future(output.sequence.request.future, error)


def _advance(output: SequenceOutput) -> None:
    """Takes a text further. Raises the error that the output has, and whatever the decoder or the listener raises."""
    sequence = output.sequence
    request = sequence.request
    if sequence.released:  # behind a stop string, or nobody waits any more
        return
    if output.error is not None:
        raise output.error
    decoder = sequence.decoder
    assert decoder is not None, "a sequence that generates has a decoder"
    token = None if output.token is sequence.ended_by else output.token  # an end token is no part of the text
    text = ""
    if token is not None:
        sequence.shown.append(token)
        sequence.token_times.append(time.monotonic())
        text = decoder.push(token.token)
    reason = output.finished if decoder.stop is None else "stop"
    if reason is not None:
        text += decoder.finish()
        if decoder.stop is not None:  # in what was held back
            reason = "stop"
    if request.listener is not None:
        request.listener(Delta(sequence, text, token, reason))
    sequence.finish_reason = reason
    if reason is not None:
        request.unfinished -= 1
        if not request.unfinished:
            set_future(request.future, None)
