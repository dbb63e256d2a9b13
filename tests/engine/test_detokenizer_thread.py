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


class Asked:
    """A request of some sequences, and what its listener was told."""

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
    def told(self) -> str:
        return "".join(delta.text for delta in self.deltas)


def feed(detokenizer: Detokenizer, steps: list[list[SequenceOutput]]) -> None:
    for step in steps:
        detokenizer.put(step)


def test_a_text_is_told_token_by_token_and_ends_its_request(detokenizer, tokenizer):
    asked = Asked(tokenizer)
    steps = asked.steps("the cat sat 🙂")
    feed(detokenizer, steps)
    asked.request.future.result(PATIENCE)
    (sequence,) = asked.sequences
    assert sequence.decoder.text == asked.told == "the cat sat 🙂"
    assert [delta.token for delta in asked.deltas] == sequence.emitted_tokens == [step[0].token for step in steps]
    assert len(sequence.token_times) == len(steps)
    assert [delta.finish_reason for delta in asked.deltas] == [None] * (len(steps) - 1) + ["length"]
    assert sequence.finish_reason == "length"
    assert asked.request.output_tokens == len(steps)


def test_a_stop_string_ends_a_text_and_what_comes_behind_it_is_ignored(detokenizer, tokenizer):
    asked = Asked(tokenizer, stops=("sat",))
    feed(detokenizer, asked.steps("the cat sat on a mat"))
    asked.request.future.result(PATIENCE)
    (sequence,) = asked.sequences
    assert sequence.released
    assert sequence.finish_reason == "stop"
    assert asked.told == "the cat "
    shown = len(sequence.emitted_tokens)
    feed(detokenizer, asked.steps("and more"))
    detokenizer.stop(PATIENCE)
    assert len(sequence.emitted_tokens) == shown
    assert asked.deltas[-1].finish_reason == "stop"


def test_a_stop_string_that_was_held_back_turns_the_reason(detokenizer, tokenizer):
    asked = Asked(tokenizer, stops=("\ufffd",))
    tokens = asked.tokens("🙂")[:-1]  # a character that is never whole
    feed(detokenizer, [[SequenceOutput(asked.sequences[0], token)] for token in tokens])
    detokenizer.put([SequenceOutput(asked.sequences[0], None, "length")])
    asked.request.future.result(PATIENCE)
    assert asked.sequences[0].finish_reason == "stop"
    assert asked.told == ""


def test_an_end_token_is_no_part_of_the_text(detokenizer, tokenizer):
    asked = Asked(tokenizer)
    (sequence,) = asked.sequences
    feed(detokenizer, asked.steps("the cat", finished=None))
    end = SampledToken(0, -0.5, ())
    sequence.ended_by = end
    detokenizer.put([SequenceOutput(sequence, end, "stop")])
    asked.request.future.result(PATIENCE)
    assert end not in sequence.emitted_tokens
    assert asked.deltas[-1] == Delta(sequence, "", None, "stop")


def test_a_request_is_done_when_all_its_texts_are(detokenizer, tokenizer):
    asked = Asked(tokenizer, count=2)
    feed(detokenizer, asked.steps("the cat", index=0))
    wait_until(lambda: asked.request.unfinished == 1, "one text has ended")
    assert not asked.request.future.done()
    feed(detokenizer, asked.steps("sat on", index=1))
    asked.request.future.result(PATIENCE)


def test_a_failed_sequence_fails_its_request(detokenizer, tokenizer):
    asked, other = Asked(tokenizer, count=2), Asked(tokenizer)
    error = InvalidRequest("no token may follow")
    detokenizer.put([SequenceOutput(asked.sequences[0], error=error), *other.steps("the")[0]])
    assert asked.request.future.exception(PATIENCE) is error
    feed(detokenizer, asked.steps("the cat", index=1))
    other.request.future.result(PATIENCE)
    detokenizer.stop(PATIENCE)
    assert asked.deltas == []
    assert detokenizer.failures == 0


class Broken(IncrementalDetokenizer):
    def push(self, token: int) -> str:
        raise ValueError("a tokenizer that fails")


def refuse(delta: Delta) -> None:
    raise ValueError("a listener that fails")


@pytest.mark.parametrize("kind", ["listener", "decoder"])
def test_what_raises_fails_its_own_request_alone(detokenizer, tokenizer, kind):
    bad, good = Asked(tokenizer, listener=refuse if kind == "listener" else None), Asked(tokenizer)
    if kind == "decoder":
        bad.sequences[0].decoder = Broken(tokenizer)
    for one, other in zip(bad.steps("the cat"), good.steps("the cat"), strict=True):
        detokenizer.put([*one, *other])
    assert isinstance(bad.request.future.exception(PATIENCE), ValueError)
    good.request.future.result(PATIENCE)
    assert good.told == "the cat"
    assert detokenizer.failures == 0


@pytest.mark.parametrize("error", [RuntimeError("broken"), SystemExit()])
def test_an_error_outside_of_a_text_is_counted_and_the_thread_goes_on(detokenizer, tokenizer, error):
    broken, whole = Asked(tokenizer), Asked(tokenizer)

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
    asked, other = Asked(tokenizer), Asked(tokenizer)
    asked.request.future.cancel()
    feed(detokenizer, asked.steps("the cat") + other.steps("the cat"))
    other.request.future.result(PATIENCE)
    assert asked.deltas == []
    assert asked.sequences[0].emitted_tokens == []


def test_all_that_a_step_gives_stands_within_its_scope(detokenizer, tokenizer):
    seen: list[str] = []

    @contextmanager
    def scope() -> Iterator[None]:
        seen.append("begin")
        yield
        seen.append("end")

    detokenizer.step_scope = scope
    asked = [Asked(tokenizer, listener=lambda delta: seen.append("delta")) for _ in range(3)]
    for one in asked:
        one.request.future.add_done_callback(lambda _: seen.append("done"))
    detokenizer.put([output for one in asked for output in one.steps("the")[0]])
    wait_until(lambda: "end" in seen, "the step has ended")
    assert seen == ["begin", *["delta", "done"] * 3, "end"]


def held(tokenizer: Tokenizer) -> tuple[Asked, threading.Event, Callable[[], bool]]:
    """A request whose listener waits."""
    let, begun = threading.Event(), threading.Event()

    def listen(delta: Delta) -> None:
        begun.set()
        assert let.wait(PATIENCE)

    return Asked(tokenizer, listener=listen), let, lambda: begun.wait(PATIENCE)


def test_putting_never_waits_for_long(detokenizer, tokenizer):
    asked, let, begun = held(tokenizer)
    detokenizer.put(asked.steps("the cat", finished=None)[0])
    assert begun()
    detokenizer.put([])  # nobody is woken for nothing
    assert detokenizer.waiting == 0
    others = Asked(tokenizer).steps("the", finished=None) * 70  # more than may wait without being slowed down
    feed(detokenizer, others)
    assert detokenizer.waiting == len(others) >= 70
    let.set()
    wait_until(lambda: detokenizer.waiting == 0, "all steps are done")


def test_stopping_does_what_waits(tokenizer):
    one = Detokenizer()
    one.start()
    asked = Asked(tokenizer)
    feed(one, asked.steps("the cat sat on a mat"))
    assert one.stop(PATIENCE)
    assert asked.told == "the cat sat on a mat"


def test_stopping_in_time_fails_what_is_left(tokenizer):
    one = Detokenizer()
    one.start()
    slow, let, begun = held(tokenizer)
    late = Asked(tokenizer)
    one.put(slow.steps("the cat", finished=None)[0])
    assert begun()
    feed(one, late.steps("the cat"))
    assert not one.stop(0.0)
    assert isinstance(late.request.future.exception(), NotReady)
    let.set()
    assert one.stop(PATIENCE)


def test_stopping_what_never_began(tokenizer):
    one, asked = Detokenizer(), Asked(tokenizer)
    feed(one, asked.steps("the cat"))
    assert one.stop(PATIENCE)
    assert isinstance(asked.request.future.exception(), NotReady)
