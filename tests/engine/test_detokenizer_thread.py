"""The thread that makes texts of tokens: what it tells whom, and that one text's fault is its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from manyhats.backbone import Text, Tokenizer
from manyhats.core.batch import SequenceOutput
from manyhats.core.sampling_params import SampledToken, SamplingParams
from manyhats.core.sequence import Delta, Request, Sequence
from manyhats.engine.detokenizer import Detokenizer, IncrementalDetokenizer
from manyhats.errors import InvalidRequest, NotReady
from manyhats.methods.bound_adapter import BARE

from tests import tiny
from tests.waiting import PATIENCE, wait_until


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = Path(tmp_path_factory.mktemp("bytes"))
    tiny.byte_tokenizer().save_pretrained(folder)
    return Tokenizer(str(folder))


@pytest.fixture
def detokenizer() -> Iterator[Detokenizer]:
    one = Detokenizer()
    one.start()
    yield one
    assert one.stop(PATIENCE)


class ListenedRequest:
    """A request of some sequences, and what its listener received."""

    def __init__(self, tokenizer: Tokenizer, *, count: int = 1, listener: Any = None, **options: Any) -> None:
        self.tokenizer = tokenizer
        self.deltas: list[Delta] = []
        self.sequences = [
            Sequence(BARE, [1], SamplingParams(), index=i, decoder=IncrementalDetokenizer(tokenizer, **options))
            for i in range(count)
        ]
        self.request = Request("task", self.sequences, listener=listener or self.deltas.append)

    def tokens(self, text: str) -> list[SampledToken]:
        return [SampledToken(one, -1.0, ()) for one in self.tokenizer.encode([Text(text)], 1000)[0].ids]

    def steps(self, text: str, finished: str | None = "length", index: int = 0) -> list[list[SequenceOutput]]:
        """A text's tokens, one a step, the last of them with the end."""
        tokens = self.tokens(text)
        last = len(tokens) - 1
        return [
            [SequenceOutput(self.sequences[index], token, finished if i == last else None)]  # type: ignore[arg-type]
            for i, token in enumerate(tokens)
        ]

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)


def feed(detokenizer: Detokenizer, steps: list[list[SequenceOutput]]) -> None:
    for step in steps:
        detokenizer.put(step)


def test_a_text_is_told_token_by_token_and_ends_its_request(detokenizer, tokenizer):
    listened = ListenedRequest(tokenizer)
    steps = listened.steps("the cat sat 🙂")
    feed(detokenizer, steps)
    listened.request.future.result(PATIENCE)
    (sequence,) = listened.sequences
    assert sequence.decoder.text == listened.text == "the cat sat 🙂"
    assert [delta.token for delta in listened.deltas] == sequence.emitted_tokens == [step[0].token for step in steps]
    assert len(sequence.token_times) == len(steps)
    assert [delta.finish_reason for delta in listened.deltas] == [None] * (len(steps) - 1) + ["length"]
    assert sequence.finish_reason == "length"
    assert listened.request.output_tokens == len(steps)


def test_a_stop_string_ends_a_text_and_what_comes_behind_it_is_ignored(detokenizer, tokenizer):
    listened = ListenedRequest(tokenizer, stops=("sat",))
    feed(detokenizer, listened.steps("the cat sat on a mat"))
    listened.request.future.result(PATIENCE)
    (sequence,) = listened.sequences
    assert sequence.released
    assert sequence.finish_reason == "stop"
    assert listened.text == "the cat "
    emitted = len(sequence.emitted_tokens)
    feed(detokenizer, listened.steps("and more"))
    detokenizer.stop(PATIENCE)
    assert len(sequence.emitted_tokens) == emitted
    assert listened.deltas[-1].finish_reason == "stop"


def test_a_stop_string_that_was_held_back_turns_the_reason(detokenizer, tokenizer):
    listened = ListenedRequest(tokenizer, stops=("\ufffd",))
    tokens = listened.tokens("🙂")[:-1]  # a character that is never whole
    feed(detokenizer, [[SequenceOutput(listened.sequences[0], token)] for token in tokens])
    detokenizer.put([SequenceOutput(listened.sequences[0], None, "length")])
    listened.request.future.result(PATIENCE)
    assert listened.sequences[0].finish_reason == "stop"
    assert listened.text == ""


def test_an_end_token_is_no_part_of_the_text(detokenizer, tokenizer):
    listened = ListenedRequest(tokenizer)
    (sequence,) = listened.sequences
    feed(detokenizer, listened.steps("the cat", finished=None))
    end = SampledToken(0, -0.5, ())
    sequence.ended_by = end
    detokenizer.put([SequenceOutput(sequence, end, "stop")])
    listened.request.future.result(PATIENCE)
    assert end not in sequence.emitted_tokens
    assert listened.deltas[-1] == Delta(sequence, "", None, "stop")


def test_a_request_is_done_when_all_its_texts_are(detokenizer, tokenizer):
    listened = ListenedRequest(tokenizer, count=2)
    feed(detokenizer, listened.steps("the cat", index=0))
    wait_until(lambda: listened.request.unfinished == 1, "one text has ended")
    assert not listened.request.future.done()
    feed(detokenizer, listened.steps("sat on", index=1))
    listened.request.future.result(PATIENCE)


def test_a_failed_sequence_fails_its_request(detokenizer, tokenizer):
    listened, other = ListenedRequest(tokenizer, count=2), ListenedRequest(tokenizer)
    error = InvalidRequest("no token may follow")
    detokenizer.put([SequenceOutput(listened.sequences[0], error=error), *other.steps("the")[0]])
    assert listened.request.future.exception(PATIENCE) is error
    feed(detokenizer, listened.steps("the cat", index=1))
    other.request.future.result(PATIENCE)
    detokenizer.stop(PATIENCE)
    assert listened.deltas == []
    assert detokenizer.failures == 0


class Broken(IncrementalDetokenizer):
    def push(self, token: int) -> str:
        raise ValueError("a tokenizer that fails")


def refuse(delta: Delta) -> None:
    raise ValueError("a listener that fails")


@pytest.mark.parametrize("kind", ["listener", "decoder"])
def test_what_raises_fails_its_own_request_alone(detokenizer, tokenizer, kind):
    bad, good = ListenedRequest(tokenizer, listener=refuse if kind == "listener" else None), ListenedRequest(tokenizer)
    if kind == "decoder":
        bad.sequences[0].decoder = Broken(tokenizer)
    for one, other in zip(bad.steps("the cat"), good.steps("the cat"), strict=True):
        detokenizer.put([*one, *other])
    assert isinstance(bad.request.future.exception(PATIENCE), ValueError)
    good.request.future.result(PATIENCE)
    assert good.text == "the cat"
    assert detokenizer.failures == 0


@pytest.mark.parametrize("error", [RuntimeError("broken"), SystemExit()])
def test_an_error_outside_of_a_text_is_counted_and_the_thread_goes_on(detokenizer, tokenizer, error):
    broken, whole = ListenedRequest(tokenizer), ListenedRequest(tokenizer)

    @contextmanager
    def scope() -> Iterator[None]:
        yield
        if not whole.deltas and not broken.request.future.done():
            raise error

    detokenizer.step_scope = scope
    feed(detokenizer, broken.steps("the cat"))
    assert broken.request.future.exception(PATIENCE) is not None
    feed(detokenizer, whole.steps("the cat"))
    whole.request.future.result(PATIENCE)
    assert detokenizer.failures == 1


def test_a_request_that_nobody_waits_for_is_told_nothing(detokenizer, tokenizer):
    listened, other = ListenedRequest(tokenizer), ListenedRequest(tokenizer)
    listened.request.future.cancel()
    feed(detokenizer, listened.steps("the cat") + other.steps("the cat"))
    other.request.future.result(PATIENCE)
    assert listened.deltas == []
    assert listened.sequences[0].emitted_tokens == []


def test_all_that_a_step_gives_stands_within_its_scope(detokenizer, tokenizer):
    seen: list[str] = []

    @contextmanager
    def scope() -> Iterator[None]:
        seen.append("begin")
        yield
        seen.append("end")

    detokenizer.step_scope = scope
    listened = [ListenedRequest(tokenizer, listener=lambda delta: seen.append("delta")) for _ in range(3)]
    for one in listened:
        one.request.future.add_done_callback(lambda _: seen.append("done"))
    detokenizer.put([output for one in listened for output in one.steps("the")[0]])
    wait_until(lambda: "end" in seen, "the step has ended")
    assert seen == ["begin", *["delta", "done"] * 3, "end"]


def blocking_request(tokenizer: Tokenizer) -> tuple[ListenedRequest, threading.Event, Callable[[], bool]]:
    """A request whose listener waits."""
    unblock, started = threading.Event(), threading.Event()

    def listen(delta: Delta) -> None:
        started.set()
        assert unblock.wait(PATIENCE)

    return ListenedRequest(tokenizer, listener=listen), unblock, lambda: started.wait(PATIENCE)


def test_putting_never_waits_for_long(detokenizer, tokenizer):
    listened, unblock, started = blocking_request(tokenizer)
    detokenizer.put(listened.steps("the cat", finished=None)[0])
    assert started()
    detokenizer.put([])  # nobody is woken for nothing
    assert detokenizer.waiting == 0
    others = ListenedRequest(tokenizer).steps("the", finished=None) * 70  # more than may wait without being slowed down
    feed(detokenizer, others)
    assert detokenizer.waiting == len(others) >= 70
    unblock.set()
    wait_until(lambda: detokenizer.waiting == 0, "all steps are done")


def test_stopping_does_what_waits(tokenizer):
    one = Detokenizer()
    one.start()
    listened = ListenedRequest(tokenizer)
    feed(one, listened.steps("the cat sat on a mat"))
    assert one.stop(PATIENCE)
    assert listened.text == "the cat sat on a mat"


def test_stopping_in_time_fails_what_is_left(tokenizer):
    one = Detokenizer()
    one.start()
    slow, unblock, started = blocking_request(tokenizer)
    late = ListenedRequest(tokenizer)
    one.put(slow.steps("the cat", finished=None)[0])
    assert started()
    feed(one, late.steps("the cat"))
    assert not one.stop(0.0)
    assert isinstance(late.request.future.exception(), NotReady)
    unblock.set()
    assert one.stop(PATIENCE)


def test_stopping_what_never_began(tokenizer):
    one, listened = Detokenizer(), ListenedRequest(tokenizer)
    feed(one, listened.steps("the cat"))
    assert one.stop(PATIENCE)
    assert isinstance(listened.request.future.exception(), NotReady)
