"""`manyhats push` and `manyhats download`."""

from __future__ import annotations

import io
import json
import tarfile
from functools import partial
from pathlib import Path

import httpx
import pytest
from manyhats.commands.remote import files_to_send
from manyhats.errors import UnsupportedFormat, WrongUsage

from tests.commands.asking import Server, refused, run
from tests.registry.helpers import write_adapter

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


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter folder."""
    return write_adapter(tmp_path / "adapter")


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


EVALUATION = {
    "metric": "accuracy", "value": 0.9, "baseline": 0.8, "baseline_version": 2, "examples": 10, "max_drop": 0.01,
    "alias": "stable", "activated": True, "reason": "accuracy 0.9 beside 0.8 of the stable version 2", "created": 1.0,
}  # fmt: skip


def test_push_sends_examples_and_says_what_followed(server: Server, adapter: Path, tmp_path: Path) -> None:
    examples = tmp_path / "held-out.jsonl"
    examples.write_text('{"text": "a", "label": "spam"}\n')
    server.answers(PUSHED | {"activated": True, "evaluation": EVALUATION}, 201)
    out, _ = run("push", "spam", adapter, "--examples", examples, "--max-drop", "0.01")
    assert out.splitlines()[1] == "activated: accuracy 0.9 beside 0.8 of the stable version 2"
    content = server.requests[0].content
    assert b'name="examples"; filename="examples.jsonl"' in content
    assert b'{"text": "a", "label": "spam"}' in content
    assert b'name="gate"\r\n\r\n{"max_drop": 0.01}\r\n' in content


def test_a_version_that_is_not_activated_is_a_failure(
    server: Server, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    examples = tmp_path / "held-out.jsonl"
    examples.write_text("{}")
    refused_one = EVALUATION | {"activated": False, "reason": "much worse"}
    server.answers(PUSHED | {"activated": False, "evaluation": refused_one}, 201)
    assert "spam@3 is kept and not activated: much worse" in refused(
        monkeypatch, capsys, "push", "spam", adapter, "--examples", examples
    )
    out, _ = run("push", "spam", adapter, "--examples", examples, "--no-activate")
    assert out.splitlines()[1] == "not activated: much worse"


def test_examples_that_are_not_there_and_a_bound_without_any(
    server: Server, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "nowhere.jsonl' is no file" in refused(
        monkeypatch, capsys, "push", "spam", adapter, "--examples", tmp_path / "nowhere.jsonl", code=2
    )
    assert "--max-drop needs --examples" in refused(
        monkeypatch, capsys, "push", "spam", adapter, "--max-drop", "0.1", code=2
    )
    assert server.requests == []


def test_a_method_without_a_rank_is_shown_without_one(server: Server, adapter: Path) -> None:
    server.answers(PUSHED | {"method": "mask", "rank": None}, 201)
    assert "mask, classify, 12 tensors" in run("push", "spam", adapter)[0]
    assert b'name="activate"\r\n\r\ntrue\r\n' in server.requests[0].content
    assert "authorization" not in server.requests[0].headers


def test_the_answer_may_be_had_as_json(server: Server, adapter: Path) -> None:
    server.answers(PUSHED | {"aliases": {"stable": 3}}, 201)
    assert json.loads(run("push", "spam", adapter, "--json")[0]) == PUSHED | {"aliases": {"stable": 3}, "new": True}


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tgz", "a.tar"])
def test_an_archive_is_sent_as_it_is(server: Server, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"packed")
    assert files_to_send(tmp_path / name) == tmp_path / name
    server.answers(PUSHED, 201)
    run("push", "spam", tmp_path / name)
    assert f'name="archive"; filename="{name}"'.encode() in server.requests[0].content


def test_folders_in_folders_go_as_one_archive(server: Server, adapter: Path, tmp_path: Path) -> None:
    """Links with the content that they lead to, as the caches of model hubs hold them; nothing hidden."""
    write_adapter(adapter / "inner", "two")
    (adapter / "adapter_setup.json").write_text("{}")
    (tmp_path / "content").write_bytes(b"linked")
    (adapter / "inner" / "head_config.json").symlink_to(tmp_path / "content")
    for hidden in (".git/HEAD", ".DS_Store", "inner/.cache/x", "optimizer.pt"):
        (adapter / hidden).parent.mkdir(exist_ok=True)
        (adapter / hidden).write_text("x")
    server.answers(PUSHED, 201)
    _, warning = run("push", "spam", adapter)
    assert all(name in warning for name in (".git/", ".DS_Store", "inner/", "optimizer.pt"))
    content = server.requests[0].content
    assert b'name="archive"; filename="adapter.tar.gz"' in content
    data = content[content.index(b"\x1f\x8b") : content.rindex(b"\r\n--")]
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


def test_hidden_folders_do_not_make_an_archive(adapter: Path) -> None:
    (adapter / ".cache").mkdir()
    (adapter / ".cache" / "x.lock").write_text("")
    names = ("adapter_config.json", "adapter_model.safetensors")
    assert files_to_send(adapter) == {name: adapter / name for name in names}


def test_there_must_be_something_to_send(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".hidden").write_text("")
    (tmp_path / "a.safetensors").write_text("")
    for path, message in (
        ("empty", "is empty"),
        ("nowhere", "no adapter folder"),
        ("a.safetensors", "no adapter folder"),
    ):
        with pytest.raises(WrongUsage, match=message):
            files_to_send(tmp_path / path)


def test_weights_in_a_pickle_are_not_sent(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(UnsupportedFormat):
        files_to_send(adapter)


def test_files_that_cannot_be_read_are_said_in_one_line(
    server: Server, adapter: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert "cannot be read: Permission denied" in refused(monkeypatch, capsys, "push", "spam", adapter)
    assert server.requests == []


def test_push_has_the_server_fetch_what_an_address_names(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = partial(refused, monkeypatch, capsys)
    server.answers(PUSHED, 201)
    out, _ = run(
        "push", "spam", "hf://org/spam@v1", "--alias", "canary", "--no-activate", "--sha256", "ab", "--kind", "x"
    )
    assert out.startswith("spam@3: lora")
    source = {"hub": "org/spam", "revision": "v1"}
    given = {"alias": "canary", "activate": False, "sha256": "ab", "task": {"kind": "x"}}
    assert json.loads(server.requests[0].content) == {"source": source} | given
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": "b"}\n')
    run("push", "spam", "s3://bucket/spam", "--examples", tmp_path / "rows.jsonl", "--max-drop", "0.5")
    body = json.loads(server.requests[1].content)
    assert body["source"] == {"s3": "s3://bucket/spam"}
    assert (body["examples"], body["gate"]) == ([{"text": "a", "label": "b"}], {"max_drop": 0.5})
    (tmp_path / "rows.jsonl").write_text("{")
    assert "no JSON lines" in wrong("push", "spam", "s3://bucket/a", "--examples", tmp_path / "rows.jsonl")
    assert "cannot be read" in wrong("push", "spam", "s3://bucket/a", "--examples", tmp_path / "none.jsonl")
    assert "is no source" in wrong("push", "spam", "file://relative", code=2)
    assert "--sha256 is of what the server fetches" in wrong("push", "spam", tmp_path, "--sha256", "ab", code=2)


# ---- download


def download_answer(request: httpx.Request) -> httpx.Response:
    if request.url.path.endswith("/download"):
        return httpx.Response(200, content=b"packed")
    split = [{"version": 1, "weight": 1}, {"version": 2, "weight": 3}]
    return httpx.Response(200, json={"name": "spam", "aliases": {"stable": 4, "canary": split}})


@pytest.mark.parametrize(
    ("task", "asked"),
    [("spam@2", ["2/download"]), ("spam", ["spam", "4/download"]), ("spam@stable", ["spam", "4/download"])],
)
def test_download_writes_the_version_that_is_meant(server: Server, tmp_path: Path, task: str, asked: list[str]) -> None:
    server.answer = download_answer
    out, _ = run("download", task, tmp_path)
    number = asked[-1][0]
    path = tmp_path / f"spam-{number}.tar.gz"
    assert path.read_bytes() == b"packed"
    assert out == f"spam@{number}: {path}, 6 bytes\n"
    assert all(request.url.path.endswith(end) for request, end in zip(server.requests, asked, strict=True))
    answer = json.loads(run("download", task, tmp_path / "x.tgz", "--json")[0])
    assert answer == {"task": "spam", "version": int(number), "path": str(tmp_path / "x.tgz"), "bytes": 6}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("spam@canary",), 2, "is split between the versions 1, 2; say which"),
        (("spam@other",), 1, "'spam' has no alias 'other'"),
        (("spam@2", "nowhere/at/all.tgz"), 2, "is no folder"),
    ],
)
def test_what_cannot_be_downloaded_is_said(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    server.answer = download_answer
    assert message in refused(monkeypatch, capsys, "download", *words, code=code)
