"""From tokens to texts, and to those who wait for them."""

from __future__ import annotations

import time
from collections.abc import Sequence as Many

from manyhats.core.batch import SequenceOutput
from manyhats.core.sequence import Delta, FinishReason
from manyhats.engine.set_future import set_future


class Detokenizer:
    """Turns each step's tokens into text, and tells those who wait for it."""

    def put(self, outputs: Many[SequenceOutput]) -> None:
        """What a step gave for sequences that generate."""
        for output in outputs:
            if output.error is not None:
                set_future(output.sequence.request.future, output.error)
            elif not output.sequence.released:
                _show(output)

    def stop(self) -> None:
        """Gives back what it holds."""


def _show(output: SequenceOutput) -> None:
    """One step of one text."""
    sequence, request = output.sequence, output.sequence.request
    decoder = sequence.decoder
    piece = ""
    finished: FinishReason | None = output.finished
    if output.token is not None:
        sequence.shown.append(output.token)
        sequence.token_times.append(time.monotonic())
        if decoder is not None:
            piece = decoder.push(output.token.token)
    if decoder is not None:
        if finished is not None:
            piece += decoder.finish()
        if decoder.stop is not None:  # also in what was held back
            finished = "stop"
    sequence.finish_reason = finished
    if request.listener is not None:
        request.listener(Delta(sequence, piece, output.token, finished))
    if finished is not None:
        request.unfinished -= 1
        if not request.unfinished:
            set_future(request.future, None)
