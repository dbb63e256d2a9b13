"""What is HTTP/1.1 and what is not, on real sockets: every byte is read in one way alone."""

from __future__ import annotations

import json
import socket

import pytest
from manyhats.api import protocol
from manyhats.api.cycle import Cycle

from tests.api.live import PATIENCE, TEXTS, Live, assert_error_body, post, raw, wait_until

HOST = b"Host: localhost\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\n" + HOST
POST = b"POST /v1/tasks/base/predict HTTP/1.1\r\n" + HOST
BODY = json.dumps({"inputs": TEXTS[0]}).encode()
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
SMUGGLED = b"GET /v1/models HTTP/1.1\r\n" + HOST + b"\r\n"


def answers(live: Live, data: bytes, *pieces: bytes) -> list[tuple[int, bytes]]:
    """Status and body of all answers to what is sent, until the server closes the connection."""
    found = []
    with raw(live, data) as client:
        for piece in pieces:
            client.sendall(piece)
        client.settimeout(PATIENCE)
        came = b""
        while piece := client.recv(1 << 16):
            came += piece
    while came:
        head, _, rest = came.partition(b"\r\n\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        length = int(headers.get(b"content-length", 0))
        found.append((int(head.split()[1]), rest[:length]))
        came = rest[length:]
    return found


LAST = b"GET /healthz HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"GET /healthz\r\n\r\n",  # HTTP/0.9
        b"GET /healthz HTTP/2.0\r\n" + HOST + b"\r\n",
        b"GET /healthz HTTP/1.2\r\n" + HOST + b"\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /healthz HTTP/1.1\n" + HOST + b"\r\n",  # lines that end in LF alone
        b"GET /healthz HTTP/1.1\r\nHost: localhost\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n",  # a header on two lines
        HEALTH + b"Host: localhost\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost : localhost\r\n\r\n",
        HEALTH + b"X: a\x00b\r\n\r\n",
        HEALTH + b": a\r\n\r\n",
        HEALTH + b"no colon\r\n\r\n",
        b"FOO /healthz HTTP/1.1\r\n" + HOST + b"\r\n",
        b"get /healthz HTTP/1.1\r\n" + HOST + b"\r\n",
        b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + b"\r\n" + SMUGGLED,
        b"CONNECT /healthz HTTP/1.1\r\n" + HOST + b"\r\n" + SMUGGLED,
        b"GET /\xe9 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET healthz HTTP/1.1\r\n" + HOST + b"\r\n",
    ],
)
def test_what_is_no_http_is_refused_once(live: Live, data: bytes) -> None:
    ((status, body),) = answers(live, data)
    assert_error_body(json.loads(body), 400)
    assert status == 400


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 3\r\nContent-Length: 3\r\n\r\n",
        b"Content-Length: 3\r\nContent-Length: 9\r\n\r\n",
        b"Content-Length: 3, 3\r\n\r\n",
        b"Content-Length: +3\r\n\r\n",
        b"Content-Length: 0x3\r\n\r\n",
        b"Content-Length: 99999999999999999999\r\n\r\n",
        b"Content-Length:\r\n\r\n",
        b"Content-Length: 5\r\n" + CHUNKED + b"0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n" + CHUNKED + b"0\r\n\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: identity\r\n\r\n",
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        CHUNKED + b"3\nabc\n0\n\n",
        CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
        CHUNKED + b"ffffffffffffffffff\r\nabc",
        CHUNKED + b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    ],
)
def test_a_body_whose_length_can_be_read_in_two_ways_is_refused(live: Live, framing: bytes) -> None:
    ((status, body),) = answers(live, POST + framing, SMUGGLED)
    assert_error_body(json.loads(body), 400)
    assert status == 400


def test_chunks_are_for_newer_clients(live: Live) -> None:
    ((status, _),) = answers(live, b"POST /v1/predict HTTP/1.0\r\n" + CHUNKED + b"0\r\n\r\n", SMUGGLED)
    assert status == 400


def test_requests_that_are_sent_at_once_are_answered_in_order(live: Live) -> None:
    paths = ["/healthz", "/nowhere", "/v1/models"] * 20
    several = b"".join(b"GET %s HTTP/1.1\r\n%s\r\n" % (path.encode(), HOST) for path in paths)
    several += post("/v1/tasks/base/predict", {"inputs": TEXTS}) * 3
    found = answers(live, several + LAST + SMUGGLED)
    assert [status for status, _ in found] == [200, 404, 200] * 20 + [200] * 4
    for i in range(1, len(several), len(several) // 7):
        again = answers(live, several[:i], several[i:] + LAST)
        assert [status for status, _ in again] == [status for status, _ in found]


def test_few_requests_wait_however_many_are_sent_at_once(live: Live, gate) -> None:
    most = protocol._PIECE // len(HEALTH)
    with raw(live, post("/v1/tasks/base/predict", {"inputs": TEXTS}) + (HEALTH + b"\r\n") * 5000) as client:
        name = client.getsockname()
        connection = wait_until(
            lambda: next((one for one in live.limits.open if one.client == name), None), "the connection is there"
        )
        wait_until(lambda: connection.flow.read_paused, "nothing more is read")
        assert len(connection.pipeline) <= most
        gate.open()
        client.settimeout(PATIENCE)
        found = b""
        while found.count(b"HTTP/1.1 200") < 5001:
            piece = client.recv(1 << 16)
            assert piece
            found += piece


def test_what_comes_behind_a_request_does_not_take_its_answer(live: Live) -> None:
    request = post("/v1/tasks/base/predict", {"inputs": TEXTS})
    found = answers(live, request + b"GET / nonsense\r\n\r\n" + SMUGGLED)
    assert [status for status, _ in found] == [200, 400]
    found = answers(live, request + POST + CHUNKED + b"ZZ\r\n" + SMUGGLED)
    assert [status for status, _ in found] == [200, 400]


@pytest.mark.parametrize("asked", [b"h2c", b"websocket"])
@pytest.mark.parametrize("framing", [b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY), None])
def test_who_asks_for_an_upgrade_gets_its_answer_all_the_same(live: Live, asked: bytes, framing: bytes | None) -> None:
    """curl asks for one with every body that it sends with `--http2`."""
    upgrade = b"Connection: Upgrade\r\nUpgrade: %s\r\n" % asked
    if framing is None:
        framing = CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    request = POST + upgrade + framing
    plain = HEALTH + upgrade + b"\r\n"
    data = request + plain + request + b"GET /nowhere HTTP/1.1\r\n" + HOST + b"\r\n" + LAST
    expected = [200, 200, 200, 404, 200]
    assert [status for status, _ in answers(live, data)] == expected
    for cut in range(1, len(request) + len(plain) + 5, 13):
        assert [status for status, _ in answers(live, data[:cut], data[cut:])] == expected
    empty = POST + upgrade + b"Content-Length: 0\r\n\r\n"
    assert [status for status, _ in answers(live, empty + LAST)] == [400, 200]


def test_trailers_are_no_headers(start) -> None:
    with start(api_keys="key") as live:
        trailers = b"%x\r\n%s\r\n0\r\nAuthorization: Bearer key\r\n\r\n" % (len(BODY), BODY)
        assert [status for status, _ in answers(live, POST + CHUNKED + trailers + LAST)] == [401, 200]


@pytest.mark.parametrize(
    "endless", [b"0\r\nX: " + b"x" * (80 << 10), b"0\r\n" + b"X: y\r\n" * (80 << 8), b"1;" + b"x" * (80 << 10)]
)
def test_what_stands_between_chunks_is_bounded(live: Live, endless: bytes) -> None:
    with raw(live, POST + CHUNKED + endless) as client:
        assert client.recv(100).startswith(b"HTTP/1.1 431")


def test_a_client_that_waits_to_send_is_told_to(live: Live) -> None:
    head = POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY)
    with raw(live, head) as client:
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(BODY)
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
    with raw(live, head.replace(b"HTTP/1.1", b"HTTP/1.0") + BODY) as old:
        assert old.recv(100).startswith(b"HTTP/1.1 200")


def test_spaces_around_a_value_say_nothing(live: Live) -> None:
    data = POST.replace(b"localhost", b" \tlocalhost \t") + b"Content-Type:application/json  \r\nX:\r\n"
    data += b"Content-Length: %d  \r\n\r\n%s" % (len(BODY), BODY)
    assert [status for status, _ in answers(live, data + LAST)] == [200, 200]


def test_an_old_client_gets_one_answer(live: Live) -> None:
    assert [status for status, _ in answers(live, b"GET /healthz HTTP/1.0\r\n\r\n" + SMUGGLED)] == [200]
    kept = b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    assert [status for status, _ in answers(live, kept + SMUGGLED)] == [200]


def test_a_request_may_come_byte_by_byte(live: Live) -> None:
    with raw(live, b"") as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in post("/v1/tasks/base/predict", {"inputs": TEXTS[0]}):
            client.sendall(bytes([byte]))
        assert client.recv(1000).startswith(b"HTTP/1.1 200")


def test_a_target_is_read_as_it_stands(live: Live) -> None:
    for target, status in ((b"http://localhost/healthz", 404), (b"/healthz?x=%2F", 200), (b"/%68ealthz", 200)):
        data = b"GET %s HTTP/1.1\r\nConnection: close\r\n%s\r\n" % (target, HOST)
        assert [status for status, _ in answers(live, data)] == [status], target


def test_an_answer_is_written_at_once(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    write = Cycle._write

    def counted(cycle: Cycle, body: bytes) -> None:
        written.append(body)
        write(cycle, body)

    monkeypatch.setattr(Cycle, "_write", counted)
    assert live.ask("base").status_code == 200
    assert live.client.get("/healthz").status_code == 200
    assert len(written) == 2
