"""From statuses and broken connections to exceptions, and when a request is tried again."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import manyhats_client as mc
import pytest

from tests.client.driver import Driver, Server, driven, error

OK = httpx.Response(200, json={"status": "ok"})
REFUSED = httpx.ConnectError("connection refused")


@pytest.mark.parametrize(
    ("status", "cls"),
    [
        (400, mc.BadRequest),
        (401, mc.AuthenticationError),
        (403, mc.PermissionDenied),
        (404, mc.NotFound),
        (405, mc.APIError),
        (409, mc.Conflict),
        (413, mc.TooLarge),
        (415, mc.UnsupportedFormat),
        (422, mc.UnprocessableAdapter),
        (429, mc.Overloaded),
        (500, mc.ServerError),
        (503, mc.ServerNotReady),
        (504, mc.DeadlineExceeded),
        (507, mc.ServerError),
    ],
)
def test_every_status_has_its_exception(kind: str, status: int, cls: type[mc.APIError]) -> None:
    server = Server([error(status, "it is so", type="ThatError", param="inputs")])
    with driven(kind, server, retries=0) as client, pytest.raises(mc.APIError) as raised:
        client.predict("spam", "x")
    failure = raised.value
    assert type(failure) is cls
    assert (failure.status, failure.type, failure.message) == (status, "ThatError", "it is so")
    assert (failure.param, failure.code, failure.retry_after) == ("inputs", status, None)
    sent = server.requests[0].headers["x-request-id"]
    assert failure.request_id == sent
    assert str(failure) == f"it is so ({status} ThatError, request {sent})"
    copy = pickle.loads(pickle.dumps(failure))
    assert vars(copy) == vars(failure)
    assert str(copy) == str(failure)


@pytest.mark.parametrize(
    ("response", "cls", "words"),
    [
        (
            httpx.Response(502, text="<h1>Bad gateway</h1>"),
            mc.ServerError,
            "answered 502 Bad Gateway: <h1>Bad",
        ),
        (httpx.Response(404, content=b"\xff" * 1000), mc.NotFound, "answered 404 Not Found: "),
        (httpx.Response(400, json={"error": "just text"}), mc.BadRequest, "just text"),
        (httpx.Response(400, json=["error"]), mc.BadRequest, "answered 400"),
        (httpx.Response(500), mc.ServerError, "answered 500 Internal Server Error"),
        (httpx.Response(301, headers={"Location": "https://new.test/"}), mc.APIError, "to https://new.test/"),
        (httpx.Response(200, text="<html>"), mc.InvalidAnswer, "is it a Manyhats server"),
        (httpx.Response(200, json={"health": 1}), mc.InvalidAnswer, "status: Field required"),
        (httpx.Response(200), mc.InvalidAnswer, "body: Invalid JSON"),
    ],
)
def test_what_is_not_in_the_servers_form(
    client: Driver, server: Server, response: httpx.Response, cls: type[Exception], words: str
) -> None:
    server.replies = [response]
    with pytest.raises(mc.ManyhatsError) as raised:
        client.health()
    assert type(raised.value) is cls
    assert words in str(raised.value)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("failure", "cls"),
    [
        (httpx.ConnectError("refused"), mc.ConnectionFailed),
        (httpx.ConnectTimeout("slow"), mc.ConnectionFailed),
        (httpx.ReadError(""), mc.ConnectionFailed),
        (httpx.RemoteProtocolError("hung up"), mc.ConnectionFailed),
        (httpx.ReadTimeout("slow"), mc.Timeout),
        (httpx.WriteTimeout("slow"), mc.Timeout),
        (httpx.PoolTimeout("slow"), mc.Timeout),
        (httpx.DecodingError("not gzip"), mc.InvalidAnswer),
    ],
)
def test_broken_connections(client: Driver, server: Server, failure: Exception, cls: type[Exception]) -> None:
    server.replies = [failure]
    with pytest.raises(mc.ManyhatsError) as raised:
        client.predict("spam", "x")
    assert type(raised.value) is cls
    assert raised.value.__cause__ is failure
    assert raised.value.request_id == server.requests[-1].headers["x-request-id"]
    assert str(raised.value).startswith(f"POST http://hats.test/v1/tasks/spam/predict: {type(failure).__name__}")
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


# ---- trying again


@pytest.mark.parametrize("refusal", [error(429), error(503), REFUSED, httpx.ConnectTimeout("slow")])
def test_tried_again(client: Driver, server: Server, refusal: httpx.Response | Exception) -> None:
    server.replies = [refusal, refusal, OK]
    assert client.health().status == "ok"
    assert len(server.requests) == 3
    first, second = client.pauses
    assert 0.25 <= first <= 0.5
    assert 0.5 <= second <= 1.0


@pytest.mark.parametrize("status", [400, 404, 409, 500, 502, 504, 507])
def test_not_tried_again(client: Driver, server: Server, status: int) -> None:
    server.replies = [error(status)]
    with pytest.raises(mc.APIError):
        client.health()
    assert len(server.requests) == 1


@pytest.mark.parametrize("failure", [httpx.ReadError("reset"), httpx.RemoteProtocolError("x"), httpx.ReadTimeout("x")])
def test_not_tried_again_once_sent(client: Driver, server: Server, failure: Exception) -> None:
    server.replies = [failure]
    with pytest.raises(mc.ManyhatsError):
        client.predict("spam", "x")
    assert len(server.requests) == 1


@pytest.mark.parametrize("most", [0, 1, 2, 5])
def test_it_ends(kind: str, most: int) -> None:
    server = Server([error(429, "full")])
    with driven(kind, server, retries=most) as client:
        with pytest.raises(mc.Overloaded, match="full"):
            client.health()
        assert len(server.requests) == most + 1
        assert len(client.pauses) == most
        assert all(pause <= 8 for pause in client.pauses)


@pytest.mark.parametrize("status", [429, 503])
def test_the_server_says_when(client: Driver, server: Server, status: int) -> None:
    server.replies = [error(status, headers={"Retry-After": "3"}), OK]
    client.health()
    assert 3 <= client.pauses[0] <= 3.75


def test_the_server_says_when_by_the_clock(client: Driver, server: Server) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=10), usegmt=True)
    server.replies = [error(429, headers={"Retry-After": date}), OK]
    client.health()
    assert 8 <= client.pauses[0] <= 12.5


def test_longer_than_is_bearable(client: Driver, server: Server) -> None:
    server.replies = [error(429, headers={"Retry-After": "3600"})]
    with pytest.raises(mc.Overloaded) as raised:
        client.health()
    assert raised.value.retry_after == 3600
    assert client.pauses == []


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        ("soon", None),
        ("", None),
        ("nan", None),
        ("inf", None),
        ("-5", 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
    ],
)
def test_strange_times(kind: str, retry_after: str, seconds: float | None) -> None:
    server = Server([error(429, headers={"Retry-After": retry_after})])
    with driven(kind, server, retries=1) as client:
        with pytest.raises(mc.Overloaded) as raised:
            client.health()
        assert raised.value.retry_after == seconds
        assert 0 <= client.pauses[0] <= 0.5
