"""What a body is said to be, its byte order mark, and gzip."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import pytest
from manyhats.api.middleware.content import is_upload
from manyhats.errors import InvalidRequest, TooLarge

from tests.api.live import Live, adapter_files, assert_error, fresh
from tests.api.middleware.asgi import Asked, ask, gate, pieces, scope

BODY = json.dumps({"inputs": "w1 w2"}).encode()
PREDICT = "/v1/tasks/base/predict"
MARK = b"\xef\xbb\xbf"

# ---- types


@pytest.mark.parametrize(
    "content_type",
    [
        None, "", "application/json", "Application/JSON", "application/json; charset=utf-8", 
        'application/json;charset="UTF-8"',
        "application/vnd.api+json", "application/json; profile=x; charset=us-ascii",
    ],
)  # fmt: skip
def test_json_or_nothing_is_said(live: Live, content_type: str | None):
    headers = {} if content_type is None else {"Content-Type": content_type}
    assert live.client.post(PREDICT, content=BODY, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x", "application/octet-stream", "text/json",
        "application/jsonp", "application/json, text/plain", "json", "; x",
        "application/json; charset=utf-16", "application/json; charset=latin-1", "+json",
        "text/plain; application/json",
    ],
)  # fmt: skip
def test_another_type_is_refused_with_what_to_send(live: Live, content_type: str):
    for path in (PREDICT, "/v1/predict", "/generate", "/v1/tasks/none/rollback", "/v1/tasks/none/load"):
        error = assert_error(live.client.post(path, content=BODY, headers={"Content-Type": content_type}), 415)
        assert "Content-Type: application/json" in error["message"]
        assert error["param"] == "Content-Type"
    assert_error(live.client.put("/v1/tasks/x", content=b"{}", headers={"Content-Type": content_type}), 415)


def test_of_several_types_each_must_be_json(live: Live):
    headers = [("Content-Type", "application/json"), ("Content-Type", "text/plain")]
    assert_error(live.client.post(PREDICT, content=BODY, headers=headers), 415, "text/plain")


def test_an_upload_is_known_by_its_route() -> None:
    assert is_upload(scope("POST", "/v1/tasks/a/versions"))
    for method, path in (
        ("PUT", "/v1/tasks/versions"), ("POST", "/v1/tasks/versions"), ("POST", "/versions"),
        ("POST", "/x/v1/tasks/a/versions"),
        ("POST", "/v1/tasks/a/b/versions"), ("GET", "/v1/tasks/a/versions"), ("POST", "/v1/tasks/a/versions/1"),
    ):  # fmt: skip
        assert not is_upload(scope(method, path)), (method, path)


# ---- the mark


@pytest.mark.parametrize("cuts", [(), (1,), (2,), (3,), (1, 2), (0, 1, 2, 3), (5,)])
def test_a_byte_order_mark_is_taken_off_however_it_is_cut(cuts: tuple[int, ...]) -> None:
    whole = MARK + b'{"a": "\xef\xbb\xbf"}'
    parts = [whole[a:b] for a, b in zip((0, *cuts), (*cuts, len(whole)), strict=True)]
    assert ask(gate(), scope(), pieces(parts)).body == whole[3:]


@pytest.mark.parametrize("body", [b"", b"{", b"\xef", b"\xef\xbb", b"\xef\xbbx", MARK, MARK * 2, b"x" + MARK])
def test_nothing_else_is_taken_off(body: bytes) -> None:
    expected = body[3:] if body.startswith(MARK) else body
    assert ask(gate(), scope(), pieces([body])).body == expected
    assert ask(gate(), scope(), pieces([body, b""])).body == expected


def test_a_body_with_a_mark_is_answered(live: Live):
    assert live.client.post(PREDICT, content=MARK + BODY).status_code == 200
    headers = {"Content-Encoding": "gzip"}
    assert live.client.post(PREDICT, content=gzip.compress(MARK + BODY), headers=headers).status_code == 200


# ---- gzip


def unpacked(messages: list[Any], limit: int = 1 << 20, encoding: str = "gzip") -> Asked:
    return ask(gate(json_limit=limit, upload_limit=limit), scope(content_encoding=encoding), messages)


def test_packed_bodies_are_answered_and_uploads_too(live: Live):
    packed = gzip.compress(BODY)
    for encoding in ("gzip", "x-gzip", "GZIP", "identity, gzip"):
        answer = live.client.post(PREDICT, content=packed, headers={"Content-Encoding": encoding})
        assert answer.status_code == 200, answer.text
    assert live.client.post(PREDICT, content=BODY, headers={"Content-Encoding": "identity"}).status_code == 200
    request = live.client.build_request(
        "POST", f"/v1/tasks/{fresh()}/versions", files=[("files", f) for f in adapter_files(live.backbone).items()]
    )
    headers = {"Content-Type": request.headers["content-type"], "Content-Encoding": "gzip"}
    answer = live.client.post(request.url, content=gzip.compress(request.read()), headers=headers)
    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize("encoding", ["deflate", "br", "zstd", "compress", "gzip, gzip", "gzip, br", "nonsense"])
def test_other_encodings_are_refused(live: Live, encoding: str):
    packed = zlib.compress(BODY)
    answer = live.client.post(PREDICT, content=packed, headers={"Content-Encoding": encoding})
    error = assert_error(answer, 415, "gzip")
    assert error["param"] == "Content-Encoding"
    assert answer.headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_it_may_come_in_any_pieces_and_members(size: int) -> None:
    body = bytes(range(256)) * 700
    packed = gzip.compress(body[:1000]) + gzip.compress(b"") + gzip.compress(body[1000:]) + b"\0" * 20
    chunks = [packed[i : i + size] for i in range(0, len(packed), size)]
    for messages in (pieces(chunks), pieces([*chunks, b""])):
        asked = unpacked(messages)
        assert asked.body == body
        assert asked.longest <= 64 << 10
        assert asked.scope is not None
        assert not [name for name, _ in asked.scope["headers"] if name in (b"content-encoding", b"content-length")]


@pytest.mark.parametrize(
    "packed",
    [b"", b"no gzip", zlib.compress(BODY), gzip.compress(BODY)[:-1], gzip.compress(BODY) + b"x",
     gzip.compress(BODY)[:12],
     gzip.compress(BODY)[:-8] + b"\0" * 8, b"\x1f\x8b"],
    ids=["empty", "text", "zlib", "cut", "longer", "head", "sums", "mark"],
)  # fmt: skip
def test_what_is_no_gzip_is_refused(live: Live, packed: bytes):
    for chunks in ([packed], [packed[:5], packed[5:], b""]):
        with pytest.raises(InvalidRequest, match="no gzip"):
            unpacked(pieces(chunks))
    assert_error(live.client.post(PREDICT, content=packed, headers={"Content-Encoding": "gzip"}), 400, "gzip")


def test_a_small_body_that_unpacks_to_much_stops_at_the_limit(start):
    bomb = gzip.compress(b" " * (64 << 20))
    assert len(bomb) < 80_000
    with start(max_body=100_000, max_upload=100_000) as live:
        for path, kind in ((PREDICT, "application/json"), ("/v1/tasks/x/versions", "multipart/form-data; boundary=x")):
            headers = {"Content-Encoding": "gzip", "Content-Type": kind}
            data = bomb if "json" in kind else gzip.compress(b"--x\r\n" + b"y" * (4 << 20))
            error = assert_error(live.client.post(path, content=data, headers=headers), 413 if "json" in kind else 400)
            assert error
        assert live.ask("base", "w1").status_code == 200


def test_no_more_is_unpacked_than_is_read() -> None:
    """Whoever stops reading at a limit has unpacked one piece more at most."""
    bomb = pieces([gzip.compress(b" " * (64 << 20))])
    got = 0

    def limited(app: Any) -> Any:
        async def route(scope: Any, receive: Any, send: Any) -> None:
            nonlocal got
            while got <= 100_000:
                got += len((await receive())["body"])
            await send({"type": "http.response.start", "status": 413, "headers": []})

        return gate()(route)

    assert ask(limited, scope(content_encoding="gzip"), bomb).status == 413
    assert got <= 100_000 + (64 << 10)


def test_a_body_that_unpacks_to_nothing_is_bounded_by_its_own_length() -> None:
    with pytest.raises(TooLarge, match="1000 bytes"):
        unpacked(pieces([gzip.compress(b"")] * 100), limit=1000)
