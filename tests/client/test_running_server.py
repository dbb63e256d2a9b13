"""The client and a running server: streams, chats, vectors, uploads, and any number of inputs."""

from __future__ import annotations

import asyncio
import io
import itertools
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import manyhats_client as mc
import numpy as np
import pytest
from manyhats.engine.runner import Runner

from tests import tiny
from tests.api.generating import CHAT, PROMPTS, add
from tests.api.live import TEXTS, Gate, Live, adapter_files, fresh, serving
from tests.client.driver import Driver, driven
from tests.docs.handled import How, chosen

MESSAGES = [{"role": "user", "content": "w1 w2"}]


@pytest.fixture(scope="module")
def decoder(base_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server that generates."""
    with serving(tiny.load(base_folder("llama")), tmp_path_factory.mktemp("decoder")) as live:
        yield live


@pytest.fixture(scope="module")
def encoder(base_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server of one-pass tasks; a call takes at most 100 inputs."""
    with serving(tiny.load(base_folder("bert")), tmp_path_factory.mktemp("encoder"), max_inputs=100) as live:
        yield live


def address(live: Live) -> str:
    return f"http://{live.host}:{live.port}"


@pytest.fixture
def writer(kind: str, decoder: Live) -> Iterator[Driver]:
    """A client of the server that generates."""
    with driven(kind, None, base_url=address(decoder)) as client:
        yield client


@pytest.fixture
def reader(kind: str, encoder: Live) -> Iterator[Driver]:
    """A client of the server of one-pass tasks."""
    with driven(kind, None, base_url=address(encoder)) as client:
        yield client


# ---- generation


def test_texts_whole_and_token_by_token(writer: Driver, decoder: Live) -> None:
    task = add(decoder)
    whole = writer.generate(task, PROMPTS, max_new_tokens=6, logprobs=1, ignore_eos=True)
    assert type(whole) is mc.GenerateAnswer
    assert whole.outputs[0].logprobs[0].top
    stream = writer.client.generate_stream(task, PROMPTS, max_new_tokens=6, logprobs=1, ignore_eos=True)
    with pytest.raises(RuntimeError, match="has been read to its end"):
        _ = stream.answer
    events = writer.read(stream)
    # The second time the prompts are in the cache: a smaller pass, whose last bits may differ.
    for streamed, output in zip(stream.answer.outputs, whole.outputs, strict=True):
        assert (streamed.text, streamed.tokens, streamed.finish_reason) == (
            output.text,
            output.tokens,
            output.finish_reason,
        )
        found, expected = ([one.logprob for one in each.logprobs] for each in (streamed, output))
        assert found == pytest.approx(expected, abs=1e-4)
    for i, output in enumerate(whole.outputs):
        own = [event for event in events if event.input == i]
        assert "".join(event.text for event in own) == output.text
        assert [token for event in own for token in event.tokens] == output.tokens
        assert own[-1].finish_reason == output.finish_reason
    assert stream.request_id
    with pytest.raises(RuntimeError, match="can be read once"):
        writer.read(stream)


def test_a_stream_that_is_refused(writer: Driver) -> None:
    with pytest.raises(mc.NotFound) as raised:
        writer.read(writer.client.generate_stream("nobody", "w1", headers={"X-Request-Id": "mine"}))
    assert raised.value.request_id == "mine"


def test_a_stream_that_is_left_frees_what_it_held(kind: str, decoder: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only some passes run until the client leaves; behind that none is needed."""
    gate = Gate()
    monkeypatch.setattr(Runner, "execute", lambda runner, batch: gate.execute(runner, batch))
    asked = {"max_new_tokens": 40, "ignore_eos": True}

    def blocking() -> None:
        with mc.Client(address(decoder)) as client, client.generate_stream("base", "w1", **asked) as stream:
            next(iter(stream))

    async def main() -> None:
        async with mc.AsyncClient(address(decoder)) as client:
            gate.let_one_pass()
            async with client.generate_stream("base", "w1", **asked) as stream:
                async for _ in stream:
                    break

    for _ in range(2):  # the first token may need a second pass
        gate.let_one_pass()
    try:
        blocking() if kind == "blocking" else asyncio.run(main())
        gate.let_one_pass()  # it may have begun
        gate.let_one_pass()
        decoder.wait_idle()
        assert gate.entered < 10
    finally:
        gate.open()


def test_chats(writer: Driver, decoder: Live) -> None:
    task = add(decoder, chat_template=CHAT)
    asked = {"max_tokens": 5, "n": 2, "temperature": 1.5, "seed": 3, "logprobs": True, "top_logprobs": 1}
    whole = writer.chat(task, MESSAGES, **asked)
    assert [choice.index for choice in whole.choices] == [0, 1]
    assert whole.text == whole.choices[0].message.content
    stream = writer.client.chat_stream(task, MESSAGES, **asked)
    chunks = writer.read(stream)
    assert stream.answer.choices == whole.choices
    assert stream.answer.usage == whole.usage
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert writer.chat(task, "w1 w2", max_tokens=5).usage.prompt_tokens == whole.usage.prompt_tokens
    with pytest.raises(mc.BadRequest, match="tools"):
        writer.chat(task, MESSAGES, parameters={"tools": [{"type": "function"}]})


def test_the_snippets_of_the_pages(decoder: Live, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that ask a server that generates; the tests of the pages run the others."""
    found = [block for some in chosen(How.SMALL).values() for block in some]
    assert found
    task = add(decoder, chat_template=CHAT)
    for block in found:
        names: dict[str, Any] = {}
        content = block.content.replace("http://127.0.0.1:8001", address(decoder))
        exec(content.replace('"base"', repr(task)), names)  # the small one has no chat template of its own
        names["writer"].close()
        assert capsys.readouterr().out


# ---- any number of inputs


def test_vectors_of_more_texts_than_a_call_takes(reader: Driver) -> None:
    texts = [f"w{i} w{i + 1}" for i in range(230)]
    told: list[tuple[int, int | None]] = []
    found = reader.embed("base", texts, batch_size=90, progress=lambda *now: told.append(now))
    assert told == [(90, 230), (180, 230), (230, 230)]
    assert len(found) == 230
    assert found.numpy().dtype == np.float32
    assert np.array_equal(found.numpy()[7], np.array(found[7], dtype="float32"))
    alone = reader.predict("base", texts[205:207]).numpy()
    assert np.allclose(found.numpy()[205:207], alone, atol=tiny.CLOSE)
    assert found.to_pandas().shape == found.numpy().shape == (230, found.dimension)
    assert len(found.request_ids) == 3
    assert reader.embed("base", "w1", dimensions=4).dimension == 4
    assert np.allclose(reader.embed("base", iter(texts)).numpy(), found.numpy(), atol=tiny.CLOSE)  # in halves
    with pytest.raises(mc.NotFound):
        reader.embed("nobody", texts, batch_size=90)


@pytest.mark.parametrize(("kind", "count"), [("blocking", 5000), ("asyncio", 500)])
def test_one_bad_input_among_many(kind: str, count: int, encoder: Live) -> None:
    """It is alone with its error, and the others are answered in their order, though they come from a generator."""
    task = encoder.add()
    bad = "w1 " * 200  # more than the model takes
    inputs = (bad if i == 123 else f"w{i % 50} w{i % 7}" for i in range(count))
    with driven(kind, None, base_url=address(encoder)) as client:
        items = client.predict_many(task, inputs, batch_size=100)
        alone = client.predict(task, ["w1 w0"]).outputs[0]
    assert [item.index for item in items] == list(range(count))
    assert [item.index for item in items if not item.ok] == [123]
    assert isinstance(items[123].error, mc.BadRequest)
    assert items[123].error.request_id
    with pytest.raises(mc.BadRequest, match="tokens"):
        _ = items[123].output
    assert items[401].input == "w1 w2"
    assert items[301].output.score == pytest.approx(alone.score, abs=tiny.CLOSE)
    table = mc.to_pandas(items[120:130])
    assert list(table["error"].notna()) == [i == 123 for i in range(120, 130)]


def test_what_is_no_input_is_found_in_its_batch(reader: Driver, encoder: Live) -> None:
    """The server refuses the whole request, of which the others are asked again without it."""
    task = encoder.add()
    inputs: list[Any] = ["w1", "w2", {"text": 5}, {"text": "w3", "text_pair": "w4"}, "w5"]
    items = reader.predict_many(task, inputs)
    assert [item.ok for item in items] == [True, True, False, True, True]
    assert isinstance(items[2].error, mc.BadRequest)


def test_inputs_may_come_asynchronously_and_without_an_end(encoder: Live) -> None:
    read = itertools.count()

    async def texts() -> AsyncIterator[str]:
        for i in read:
            yield f"w{i % 9}"

    async def main() -> None:
        async with mc.AsyncClient(address(encoder)) as client:
            told: list[tuple[int, int | None]] = []
            several = client.predict_many(
                "base", texts(), batch_size=5, concurrency=2, progress=lambda *now: told.append(now)
            )
            async for item in several:
                if item.index == 11:
                    break
            await several.aclose()
            assert told[-1] == (12, None)

    asyncio.run(main())
    assert next(read) <= 12 + 5 * 4  # what is read ahead is bounded
    encoder.wait_idle()


# ---- uploads


def packed(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def test_roll_outs(reader: Driver, encoder: Live) -> None:
    task = fresh()
    reader.upload(task, adapter_files(encoder.backbone))
    labels = [answer.label for answer in reader.predict(task, TEXTS).outputs]
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, labels, strict=True)]
    bad = [{"text": text, "label": "LABEL_2"} for text in TEXTS]
    made = reader.upload(task, adapter_files(encoder.backbone), examples=bad + rows, max_drop=1.0, metric="accuracy")
    assert (made.activated, made.version) == (True, 2)
    assert made.evaluation.examples == 6
    assert reader.version(task, 2).evaluation.value == made.evaluation.value
    reader.set_alias(task, "stable", {1: 50, 2: 50}, canary={"version": 2, "max_error_rate": 0.1})
    given = {"headers": {"X-Affinity": "ada"}}
    assert len({reader.predict(task, "w1", **given).version for _ in range(10)}) == 1
    found = reader.alias(task, "stable")
    assert (found.version, [target.version for target in found.split]) == (1, [1, 2])
    assert found.canary["canary"]["requests"] + found.canary["others"]["requests"] == 10
    assert reader.task(task).rollouts["stable"].canary["version"] == 2
    with pytest.raises(ValueError, match="need labelled examples"):
        reader.upload(task, adapter_files(encoder.backbone), max_drop=0.1)


@pytest.mark.parametrize("form", ["bytes", "file", "names"])
def test_adapters_that_are_in_memory(reader: Driver, encoder: Live, form: str) -> None:
    files = adapter_files(encoder.backbone)
    archive = packed(files)
    given: Any = {"bytes": archive, "file": io.BytesIO(archive), "names": files}[form]
    told: list[tuple[int, int | None]] = []
    task = fresh()
    made = reader.upload(task, given, settings={"max_tokens": 16}, progress=lambda *now: told.append(now))
    assert (made.task, made.version, made.new) == (task, 1, True)
    assert told[0][0] == 0
    assert told[-1][0] == told[-1][1] > sum(map(len, files.values())) // 2
    assert reader.predict(task, TEXTS).version == 1
    assert reader.task(task).max_tokens == 16
