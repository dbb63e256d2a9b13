"""Faults of a server and of the way to it, on real connections."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import manyhats_client as mc
import pytest

from tests.client.driver import Driver, driven
from tests.client.test_asking import answer
from tests.waiting import PATIENCE


class Faulty:
    """What a server does with a request: says what it was told to, by the number of the request."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()
        self.reply = lambda handler, number, body: handler.say(200, echo(body))


def echo(body: Any) -> Any:
    """An answer to each question whose label is its input; `bad` ones fail."""
    return {"results": [result(one["inputs"]) for one in body["requests"]]}


def result(text: str) -> Any:
    if text.startswith("bad"):
        return {"task": "t", "error": {"message": f"{text} is bad", "type": "BadRequestError", "code": 400}}
    return answer(outputs=[{"label": text, "score": 1.0, "scores": {text: 1.0}}])


class Handler(BaseHTTPRequestHandler):
    """Reads a request and lets `faulty` answer it."""

    protocol_version = "HTTP/1.1"
    faulty: Faulty

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.faulty.lock:
            self.faulty.bodies.append(body)
            number = len(self.faulty.bodies)
            self.faulty.busy += 1
            self.faulty.most_busy = max(self.faulty.most_busy, self.faulty.busy)
        try:
            self.faulty.reply(self, number, body)
        finally:
            with self.faulty.lock:
                self.faulty.busy -= 1

    def say(self, status: int, body: Any, **headers: str) -> None:
        """A whole answer."""
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status: int, **headers: str) -> None:
        """A whole error."""
        self.say(status, {"error": {"message": "no", "type": "SomeError", "code": status}}, **headers)

    def events(self, *events: Any, end: bool) -> None:
        """Some events of a stream, which then ends in order, or in the middle of a chunk."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("X-Request-Id", "theirs")
        self.end_headers()
        for event in events:
            data = b"data: " + (event if isinstance(event, bytes) else json.dumps(event).encode()) + b"\n\n"
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.write(b"0\r\n\r\n" if end else b"40\r\ndata: {")
        self.close_connection = True

    def cut(self) -> None:
        """No answer."""
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    faulty = Faulty()
    handler = type("Faults", (Handler,), {"faulty": faulty})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        faulty.address = f"http://127.0.0.1:{server.server_port}"
        yield faulty
        server.shutdown()
        thread.join()


@pytest.fixture
def client(kind: str, faulty: Faulty) -> Iterator[Driver]:
    with driven(kind, None, base_url=faulty.address) as driver:
        yield driver


def labels(items: list[mc.Item]) -> list[str]:
    return [item.output.label if item.ok else f"{type(item.error).__name__}" for item in items]


TEXTS = ["a", "b", "bad", "d", "e"]
ANSWERED = ["a", "b", "BadRequest", "d", "e"]


# ---- streams


EVENT = {"input": 0, "text": " hat", "tokens": [5], "finish_reason": None}


def test_a_stream_that_is_cut(client: Driver, faulty: Faulty) -> None:
    faulty.reply = lambda handler, number, body: handler.events(EVENT, end=False)
    stream = client.client.generate_stream("t", "x")
    with pytest.raises(mc.ConnectionFailed) as raised:
        client.read(stream)
    assert raised.value.sent
    assert raised.value.request_id
    assert len(faulty.bodies) == 1
    with pytest.raises(RuntimeError, match="read to its end"):
        _ = stream.answer


def test_a_stream_that_ends_without_its_end(client: Driver, faulty: Faulty) -> None:
    faulty.reply = lambda handler, number, body: handler.events(EVENT, end=True)
    with pytest.raises(mc.ConnectionFailed, match=r"the stream broke off before its end \(request theirs\)"):
        client.read(client.client.generate_stream("t", "x"))


@pytest.mark.parametrize(
    ("event", "error", "message"),
    [
        ({"error": {"message": "lost", "code": 500}}, mc.ServerError, "lost"),
        (b"{", mc.InvalidAnswer, "an event that is not understood"),
        (b"[1]", mc.InvalidAnswer, "list instead of an object"),
        ({"text": 5}, mc.InvalidAnswer, "an event that is not understood"),
    ],
)
def test_a_stream_that_goes_wrong(
    client: Driver, faulty: Faulty, event: Any, error: type[mc.ManyhatsError], message: str
) -> None:
    faulty.reply = lambda handler, number, body: handler.events(EVENT, event, end=True)
    with pytest.raises(error, match=message) as raised:
        client.read(client.client.generate_stream("t", "x"))
    assert raised.value.request_id == "theirs"


def test_a_stream_is_asked_for_again_where_it_is_refused(client: Driver, faulty: Faulty) -> None:
    def reply(handler: Handler, number: int, body: Any) -> None:
        if number == 1:
            return handler.refuse(503, Retry_After="0")
        whole = answer("generate", outputs=[{"text": " hat", "finish_reason": "stop", "tokens": [5]}])
        return handler.events(EVENT, whole, b"[DONE]", end=True)

    faulty.reply = reply
    stream = client.client.generate_stream("t", "x", temperature=1.0)
    assert [event.text for event in client.read(stream)] == [" hat"]
    assert stream.answer.text == " hat"
    assert faulty.bodies[1] == {"inputs": "x", "parameters": {"temperature": 1.0, "stream": True}}


def test_what_is_no_stream(client: Driver, faulty: Faulty) -> None:
    faulty.reply = lambda handler, number, body: handler.say(200, {"a": 1})
    with pytest.raises(mc.InvalidAnswer, match="text/event-stream"):
        client.read(client.client.chat_stream("t", "x"))


# ---- many inputs


@pytest.mark.parametrize("fault", ["503", "cut"])
def test_a_batch_that_fails_is_asked_again(client: Driver, faulty: Faulty, fault: str) -> None:
    def reply(handler: Handler, number: int, body: Any) -> None:
        if number == 2:
            return handler.refuse(503, Retry_After="0") if fault == "503" else handler.cut()
        return handler.say(200, echo(body))

    faulty.reply = reply
    items = client.predict_many("t", iter(TEXTS), batch_size=2, concurrency=1)
    assert labels(items) == ANSWERED
    assert len(faulty.bodies) == 4
    assert len(client.pauses) == 1


def test_an_input_that_is_refused_for_now_is_asked_again_by_itself(client: Driver, faulty: Faulty) -> None:
    def reply(handler: Handler, number: int, body: Any) -> None:
        said = echo(body)
        if number < 3:
            said["results"][-1] = {"task": "t", "error": {"message": "full", "code": 429}}
        handler.say(200, said)

    faulty.reply = reply
    items = client.predict_many("t", TEXTS)
    assert labels(items) == ANSWERED
    assert [len(body["requests"]) for body in faulty.bodies] == [5, 1, 1]
    assert len(client.pauses) == 2
    items = client.predict_many("t", TEXTS, retries=0)
    faulty.bodies.clear()
    assert labels(client.predict_many("t", TEXTS, retries=0)) == [*ANSWERED[:4], "Overloaded"]


def test_a_batch_that_is_refused_whole_is_asked_in_halves(client: Driver, faulty: Faulty) -> None:
    def reply(handler: Handler, number: int, body: Any) -> None:
        texts = [one["inputs"] for one in body["requests"]]
        handler.refuse(500) if "d" in texts else handler.say(200, echo(body))

    faulty.reply = reply
    items = client.predict_many("t", TEXTS)
    assert labels(items) == ["a", "b", "BadRequest", "ServerError", "e"]
    assert len({item.error.request_id for item in items if item.error}) == 2


def test_what_concerns_all_is_raised_behind_what_was_answered(client: Driver, faulty: Faulty) -> None:
    done: list[int] = []
    for status, error in ((401, mc.AuthenticationError), (0, mc.ConnectionFailed), (404, None)):
        faulty.bodies.clear()
        done.clear()

        def reply(handler: Handler, number: int, body: Any, status: int = status) -> None:
            if number == 1:
                return handler.say(200, echo(body))
            return handler.refuse(status) if status else handler.cut()

        faulty.reply = reply
        asked = {"batch_size": 2, "concurrency": 1, "progress": lambda now, total: done.append(now)}
        if error is None:  # of the task, which each input may say
            assert labels(client.predict_many("t", TEXTS, **asked)) == ["a", "b", *["NotFound"] * 3]
            continue
        with pytest.raises(error):
            client.predict_many("t", TEXTS, **asked)
        assert done == [1, 2]


def test_inputs_that_cannot_be_read_are_raised_behind_the_others(client: Driver, faulty: Faulty) -> None:
    def inputs() -> Iterator[str]:
        yield from "abc"
        raise KeyError("line 4")

    done: list[int] = []
    with pytest.raises(KeyError, match="line 4"):
        client.predict_many("t", inputs(), batch_size=2, progress=lambda now, total: done.append(now))
    assert done == [1, 2, 3]


@pytest.mark.parametrize("sizes", [{"batch_size": 0}, {"concurrency": 0}])
def test_sizes_that_are_none(client: Driver, sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="are at least 1"):
        client.predict_many("t", TEXTS, **sizes)


def test_so_many_are_asked_at_once_and_the_order_is_kept(client: Driver, faulty: Faulty) -> None:
    """None of three requests is answered before all of them are there, and the first after the others."""
    barrier, others = threading.Barrier(3), threading.Semaphore(0)

    def reply(handler: Handler, number: int, body: Any) -> None:
        barrier.wait(PATIENCE)
        if body["requests"][0]["inputs"] == "0":
            assert others.acquire(timeout=PATIENCE)
            assert others.acquire(timeout=PATIENCE)
        handler.say(200, echo(body))
        others.release()

    faulty.reply = reply
    items = client.predict_many("t", map(str, range(6)), batch_size=2, concurrency=3)
    assert labels(items) == ["0", "1", "2", "3", "4", "5"]
    assert faulty.most_busy == 3


def test_who_stops_reading_is_not_asked_for_more(faulty: Faulty) -> None:
    read: list[int] = []

    def inputs() -> Iterator[str]:
        for i in range(10**9):
            read.append(i)
            yield str(i)

    with mc.Client(faulty.address) as client:
        for item in client.predict_many("t", inputs(), batch_size=3, concurrency=2):
            if item.index == 4:
                break
    assert len(read) <= 3 * 4

    async def main() -> None:
        async with mc.AsyncClient(faulty.address) as client:
            async for item in client.predict_many("t", inputs(), batch_size=3, concurrency=2):
                if item.index == 4:
                    break

    read.clear()
    asyncio.run(main())
    assert len(read) <= 3 * 4
