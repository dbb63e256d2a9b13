"""The commands that talk to a server, against one that only writes down what it is asked."""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from manyhats import cli
from manyhats.commands.remote import upload_parts
from manyhats.errors import InvalidRequest
from typer.testing import CliRunner

from tests.registry.helpers import write_adapter

Answer = Callable[[httpx.Request], httpx.Response]
PUSHED = {
    "task": "spam",
    "version": 3,
    "method": "lora",
    "kind": "classify",
    "rank": 8,
    "matched_tensors": 12,
    "bytes": 345,
    "sha256": "0123456789abcdef",
}


class Server:
    """Gives the answers that it was made with, and keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self.answer: Answer = lambda request: httpx.Response(200, json={})

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        return self.answer(request)

    def answers(self, body: Any, status: int = 200) -> None:
        """What it answers from now on."""
        self.answer = lambda request: httpx.Response(status, json=body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """Stands in for every server that a command asks."""
    one, client = Server(), httpx.Client
    monkeypatch.setattr(httpx, "Client", lambda **given: client(transport=httpx.MockTransport(one), **given))
    monkeypatch.delenv("MANYHATS_URL", raising=False)
    monkeypatch.delenv("MANYHATS_KEY", raising=False)
    return one


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter folder."""
    return write_adapter(tmp_path / "adapter")


def run(*words: str | Path, **environment: str) -> tuple[str, str]:
    """What a command writes to stdout and stderr; it must end well."""
    result = CliRunner().invoke(cli.app, [str(word) for word in words], env=environment)
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """The one line that a command fails with."""
    monkeypatch.setattr(sys, "argv", ["manyhats", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("manyhats: ")
    assert said.err.count("\n") == 1
    return said.err


# ---- push


def test_push_sends_the_files_and_says_what_became_of_them(server: Server, adapter: Path) -> None:
    server.answers(PUSHED | {"warnings": ["the base differs"]}, 201)
    out, err = run("push", "spam", adapter, "--alias", "canary", "--no-activate", "--key", "secret", "--kind", "embed")
    assert out == "spam@3: lora, classify, rank 8, 12 tensors, 345 bytes, sha256 0123456789ab\n"
    assert err == "warning: the base differs\n"
    (request,) = server.requests
    assert (request.method, str(request.url)) == ("POST", "http://127.0.0.1:8000/v1/tasks/spam/versions")
    assert request.headers["authorization"] == "Bearer secret"
    for part in (b'filename="adapter_config.json"', b'filename="adapter_model.safetensors"', b"\0weights:one"):
        assert part in request.content
    assert b'name="alias"\r\n\r\ncanary\r\n' in request.content
    assert b'name="activate"\r\n\r\nfalse\r\n' in request.content
    assert b'name="task"\r\n\r\n{"kind": "embed"}\r\n' in request.content


def test_a_method_without_a_rank_is_shown_without_one(server: Server, adapter: Path) -> None:
    server.answers(PUSHED | {"method": "mask", "rank": None}, 201)
    assert "mask, classify, 12 tensors" in run("push", "spam", adapter)[0]
    assert b'name="activate"\r\n\r\ntrue\r\n' in server.requests[0].content
    assert "authorization" not in server.requests[0].headers


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tgz", "a.tar"])
def test_an_archive_is_sent_as_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"packed")
    with ExitStack() as stack:
        ((field, (sent, file, _)),), _ = upload_parts(tmp_path / name, stack)
        assert (field, sent, file.read()) == ("archive", name, b"packed")


def test_folders_in_folders_go_as_one_archive(adapter: Path, tmp_path: Path) -> None:
    """Links with the content that they lead to, as the caches of model hubs hold them; nothing hidden."""
    write_adapter(adapter / "inner", "two")
    (adapter / "adapter_setup.json").write_text("{}")
    (tmp_path / "content").write_bytes(b"linked")
    (adapter / "inner" / "head_config.json").symlink_to(tmp_path / "content")
    for hidden in (".git/HEAD", ".DS_Store", "inner/.cache/x", "optimizer.pt"):
        (adapter / hidden).parent.mkdir(exist_ok=True)
        (adapter / hidden).write_text("x")
    with ExitStack() as stack:
        ((field, (name, file, _)),), (warning,) = upload_parts(adapter, stack)
        data = file.read()
    assert (field, name) == ("archive", "adapter.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
        assert all(member.isreg() for member in members)
        assert [member.name for member in members] == [
            "adapter_config.json",
            "adapter_model.safetensors",
            "adapter_setup.json",
            "inner/adapter_config.json",
            "inner/adapter_model.safetensors",
            "inner/head_config.json",
        ]
        linked = tar.extractfile("inner/head_config.json")
        assert linked is not None
        assert linked.read() == b"linked"
    assert all(name in warning for name in (".git/", ".DS_Store", "inner/", "optimizer.pt"))


def test_hidden_folders_do_not_make_an_archive(adapter: Path) -> None:
    (adapter / ".cache").mkdir()
    (adapter / ".cache" / "x.lock").write_text("")
    with ExitStack() as stack:
        parts, _ = upload_parts(adapter, stack)
    assert [(field, name) for field, (name, _, _) in parts] == [
        ("files", "adapter_config.json"),
        ("files", "adapter_model.safetensors"),
    ]


def test_there_must_be_something_to_send(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".hidden").write_text("")
    (tmp_path / "a.safetensors").write_text("")
    for path, message in (
        ("empty", "is empty"),
        ("nowhere", "no adapter folder"),
        ("a.safetensors", "no adapter folder"),
    ):
        with ExitStack() as stack, pytest.raises(InvalidRequest, match=message):
            upload_parts(tmp_path / path, stack)


def test_files_that_cannot_be_read_are_said_in_one_line(
    server: Server, adapter: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert "cannot be read: Permission denied" in refused(monkeypatch, capsys, "push", "spam", adapter)
    assert server.requests == []


# ---- the others


def test_tasks_shows_every_page_and_whole_names(server: Server) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        row = {"kind": "classify", "method": "lora", "version": 2, "residency": "slot", "bytes": 10}
        if "page_token" not in request.url.params:
            return httpx.Response(200, json={"data": [{"name": "a" * 128, **row}], "next_page_token": "next/+"})
        assert request.url.params["page_token"] == "next/+"
        return httpx.Response(200, json={"data": [{"name": "b", **row}], "next_page_token": None})

    server.answer = answer
    lines = run("tasks")[0].splitlines()
    assert [line.split() for line in lines] == [
        ["task", "kind", "method", "version", "residency", "bytes"],
        ["a" * 128, "classify", "lora", "2", "slot", "10"],
        ["b", "classify", "lora", "2", "slot", "10"],
    ]


def test_show_prints_json_without_the_cards(server: Server) -> None:
    text = "[red]é[/red] " * 30
    server.answers({"name": "spam", "template": text, "versions": [{"version": 1, "card": "long"}]})
    assert json.loads(run("show", "spam@canary")[0]) == {"name": "spam", "template": text, "versions": [{"version": 1}]}
    assert server.requests[0].url.path == "/v1/tasks/spam@canary"


@pytest.mark.parametrize(("words", "body"), [([], {}), (["4"], {"version": 4})])
def test_rollback_asks_for_the_version_that_was_named(server: Server, words: list[str], body: dict[str, int]) -> None:
    server.answers({"aliases": {"stable": 4}})
    assert run("rollback", "spam", *words)[0] == "spam: stable is version 4\n"
    assert server.requests[0].url.path == "/v1/tasks/spam/rollback"
    assert json.loads(server.requests[0].content) == body


def test_predict_prints_the_outputs(server: Server) -> None:
    server.answers({"outputs": [{"label": "ham", "score": 0.5}, {"label": "spam", "score": 1.0}]})
    assert json.loads(run("predict", "spam", "one", "two")[0])[1] == {"label": "spam", "score": 1.0}
    assert json.loads(server.requests[0].content) == {"inputs": ["one", "two"]}


def test_the_address_and_the_key_may_come_from_the_environment(server: Server) -> None:
    server.answers({"outputs": []})
    run("predict", "spam", "x", MANYHATS_URL="http://elsewhere:1/prefix", MANYHATS_KEY="schlüssel")
    (request,) = server.requests
    assert str(request.url) == "http://elsewhere:1/prefix/v1/tasks/spam/predict"
    assert dict(request.headers.raw)[b"Authorization"] == "Bearer schlüssel".encode()


# ---- what goes wrong


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (404, {"error": {"message": "The task `x` does not exist.", "code": 404}}, "The task `x` does not exist."),
        (502, {"detail": "bad gateway"}, "answered 502, but not as this server does"),
        (500, {"error": "broken"}, "answered 500, but not as this server does"),
        (200, ["something", "else"], "answered 200, but not as this server does"),
        (302, {}, "answered 302, but not as this server does"),
    ],
)
def test_what_a_server_refuses_is_said_in_one_line(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    status: int,
    body: Any,
    message: str,
) -> None:
    server.answers(body, status)
    assert message in refused(monkeypatch, capsys, "show", "x")


def test_an_answer_without_json_is_said_in_one_line(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = lambda request: httpx.Response(200, text="<html>\nhello\n</html>")
    assert "answered 200 without JSON" in refused(monkeypatch, capsys, "show", "x")


@pytest.mark.parametrize("url", ["nonsense", "http://[::1", "http://h:1:2"])
def test_an_address_that_is_none_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    assert f"no answer from {url}" in refused(monkeypatch, capsys, "tasks", "--url", url)


@pytest.mark.parametrize(
    "words",
    [
        ("push", "a/b", os.curdir),
        ("push", "base", os.curdir),
        ("push", "spam@3", os.curdir),
        ("show", "../metrics"),
        ("show", "spam?x"),
        ("rollback", "spam@3"),
        ("predict", "", "x"),
    ],
)
def test_a_name_that_is_none_is_not_sent(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    refused(monkeypatch, capsys, *words)
    assert server.requests == []
