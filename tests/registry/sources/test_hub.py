"""Adapters from a hub: checked by its list before they are asked for, and compared with it while they come."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import namedtuple
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
from fastapi import Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse
from huggingface_hub import constants
from manyhats.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ManyhatsError,
    NotFound,
    Overloaded,
    PermissionDenied,
    SourceFailed,
    StorageFull,
    TooLarge,
    UnsupportedFormat,
)
from manyhats.registry.sources import fetch as fetching
from manyhats.registry.sources.fetch import FetchLimits

from tests.hub import Hub, git_sha1, serving_hub
from tests.registry.sources.helpers import CONFIG, WEIGHTS, adapter, bring, content, from_hub

WEIGHTS_PATH = "/lfs/"


def on(path: str, answer: Callable[[Request], Response]) -> Callable[[Request], Response | None]:
    """A fault of the paths that begin so."""
    return lambda request: answer(request) if request.url.path.startswith(path) else None


class Endless:
    """An answer that never ends; `sent` counts its bytes."""

    def __init__(self, chunk: bytes = bytes(1 << 16), pause: float = 0.0) -> None:
        self.chunk = chunk
        self.pause = pause
        self.sent = 0

    def __call__(self, request: Request) -> Response:
        return StreamingResponse(self._chunks(), media_type="binary/octet-stream")

    async def _chunks(self) -> AsyncIterator[bytes]:
        while True:
            self.sent += len(self.chunk)
            yield self.chunk
            await asyncio.sleep(self.pause)  # where the client's going is noticed


def refused(error: type[ManyhatsError], hub: Hub, into: Path, message: str = "", **options) -> None:
    """The fetch fails, and no file has been asked for."""
    with pytest.raises(error, match=message):
        bring(from_hub(), into, **options)
    assert hub.files_asked() == []
    assert content(into) == {}


# ---- what comes


def test_what_is_fetched_is_what_the_commit_holds(hub: Hub, into: Path) -> None:
    files = adapter() | {"README.md": b"# spam"}
    junk = {"optimizer.pt": b"x", "runs/events.out.tfevents.1": b"x", ".gitattributes": b"x", "vocab.txt": b"x"}
    commit = hub.add("org/spam", files | junk)
    found = bring(from_hub(), into)
    assert content(into) == files
    assert (found.origin.kind, found.origin.id, found.origin.revision) == ("hub", "org/spam", "main")
    assert found.origin.commit == commit
    assert {file.name: file.bytes for file in found.origin.files} == {name: len(data) for name, data in files.items()}
    assert "optimizer.pt" in found.warnings[0]
    assert not [path for path in hub.files_asked() if any(name in path for name in junk)]
    assert all(commit in path for path in hub.files_asked())


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub: Hub, tmp_path: Path) -> None:
    old = hub.add("org/spam", adapter(10))
    new = hub.repositories["org/spam"].commit(adapter(20), "refs/pr/1")
    for number, (revision, commit) in enumerate({"main": old, old: old, "refs/pr/1": new, new: new}.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert bring(from_hub(revision=revision), folder).origin.commit == commit
        assert content(folder) == adapter(10 if commit == old else 20)


def test_an_adapter_in_a_subfolder_and_names_with_spaces(hub: Hub, into: Path) -> None:
    inner = {f"my adapter/{name}": data for name, data in adapter().items()}
    hub.add("org/spam", inner | {"LICENSE": b"x"})
    bring(from_hub(), into)
    assert content(into) == adapter()


def test_the_hub_of_the_tests_answers_the_hubs_own_client(hub: Hub, tmp_path: Path) -> None:
    commit = hub.add("org/spam", adapter())
    api = huggingface_hub.HfApi(endpoint=hub.url)
    info = api.model_info("org/spam", revision="main", files_metadata=True)
    assert info.sha == commit
    assert {one.rfilename: one.size for one in info.siblings} == {n: len(d) for n, d in adapter().items()}
    for name, data in adapter().items():
        path = huggingface_hub.hf_hub_download("org/spam", name, endpoint=hub.url, cache_dir=tmp_path)
        assert Path(path).read_bytes() == data


def test_a_private_repository_needs_the_servers_token(hub: Hub, into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/spam", adapter(), needs="hf_secret")
    refused(NotFound, hub, into, "no such repository")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    bring(from_hub(), into)
    assert content(into) == adapter()


# ---- refused before a byte is asked for


def test_more_bytes_or_files_than_an_upload_may_have(hub: Hub, into: Path) -> None:
    hub.add("org/spam", adapter(2000))
    refused(TooLarge, hub, into, "bytes; at most 1000", limits=FetchLimits(max_files=8, max_bytes=1000))
    refused(TooLarge, hub, into, "2 files; at most 1", limits=FetchLimits(max_files=1, max_bytes=1 << 20))
    hub.stated[WEIGHTS] = 1 << 40
    refused(TooLarge, hub, into, "at most")


def test_a_disk_without_space(hub: Hub, into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/spam", adapter())
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda path: usage(1 << 30, 1 << 30, 1000))
    assert fetching.shutil is shutil
    refused(StorageFull, hub, into, "only 1000 left")


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ({"adapter_config.json": b"{}", "adapter_model.bin": b"x"}, UnsupportedFormat, "pickle"),
        ({"config.json": b"{}", "model.safetensors": b"x"}, InvalidRequest, "no adapter's configuration"),
        ({"README.md": b"x"}, InvalidRequest, "no adapter's configuration"),
        ({}, InvalidRequest, "no adapter's configuration"),
        ({"a/adapter_config.json": b"{}", "b/adapter_config.json": b"{}"}, InvalidRequest, "2 adapters"),
    ],
)
def test_what_is_no_adapter(hub: Hub, into: Path, files: dict[str, bytes], error: type, message: str) -> None:
    hub.add("org/spam", files)
    refused(error, hub, into, message)


def listing(names: list[str], **changes: object) -> Callable[[Request], Response]:
    """A list of files by these names."""
    data = b"{}"
    siblings = [{"rfilename": name, "size": len(data), "blobId": git_sha1(data)} for name in names]
    body = {"sha": "0" * 40, "siblings": siblings} | changes
    return on("/api/models/", lambda request: Response(json.dumps(body), media_type="application/json"))


@pytest.mark.parametrize(
    "name",
    ["../adapter_config.json", "/etc/adapter_config.json", "a\\b/adapter_config.json", "a/../adapter_config.json",
     "a:b/adapter_config.json", "a//adapter_config.json", "./adapter_config.json", "a\n/adapter_config.json",
     "a/b/c/d/e/adapter_config.json", f"{'x' * 300}/adapter_config.json"],
)  # fmt: skip
def test_names_that_lead_elsewhere(hub: Hub, into: Path, name: str) -> None:
    hub.fault = listing([name])
    refused(InvalidRequest, hub, into, r"not allowed|no adapter")
    assert list(into.parent.iterdir()) == [into]


def test_names_that_stand_twice(hub: Hub, into: Path) -> None:
    hub.fault = listing([CONFIG, CONFIG])
    refused(SourceFailed, hub, into, "twice")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"{}", b'{"sha": "main", "siblings": []}', b'{"sha": 1}', b'{"sha": "%s"}' % (b"0" * 40),
     b'{"sha": "%s", "siblings": [{"rfilename": "adapter_config.json", "size": -1}]}' % (b"0" * 40),
     b'{"sha": "%s", "siblings": [{"rfilename": "adapter_config.json"}]}' % (b"0" * 40)],
)  # fmt: skip
def test_a_list_that_is_none(hub: Hub, into: Path, body: bytes) -> None:
    hub.fault = on("/api/models/", lambda request: Response(body))
    refused(SourceFailed, hub, into, r"list of files cannot be read|does not say how large")


def test_a_list_that_never_ends(hub: Hub, into: Path) -> None:
    endless = Endless(b" " * (1 << 16))
    hub.fault = on("/api/models/", endless)
    refused(TooLarge, hub, into, "more than")


def test_what_is_not_there(hub: Hub, into: Path) -> None:
    refused(NotFound, hub, into, "no such repository")
    hub.add("org/spam", adapter())
    with pytest.raises(NotFound, match="no such revision"):
        bring(from_hub(revision="v9"), into)


@pytest.mark.parametrize(
    ("status", "error"),
    [(403, PermissionDenied), (429, Overloaded), (500, SourceFailed), (503, SourceFailed), (204, SourceFailed)],
)
def test_a_hub_that_refuses(hub: Hub, into: Path, status: int, error: type) -> None:
    hub.fault = lambda request: Response(status_code=status, headers={"Retry-After": "7"})
    with pytest.raises(error) as raised:
        bring(from_hub(), into)
    assert getattr(raised.value, "retry_after", 7) == 7


def test_a_hub_that_is_down(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with serving_hub() as gone:
        monkeypatch.setenv("HF_ENDPOINT", gone.url)
    with pytest.raises(SourceFailed, match="cannot be read"):
        bring(from_hub(), into)


def test_no_hub_is_asked_where_the_operator_says_so() -> None:
    with pytest.raises(PermissionDenied, match="HF_HUB_OFFLINE"):
        from_hub()


# ---- compared while it comes


def test_a_body_that_never_ends_is_left_at_the_size_that_was_listed(hub: Hub, into: Path) -> None:
    hub.add("org/spam", adapter(100_000))
    start = adapter(100_000)[WEIGHTS][:1000]
    endless = Endless(start * 64)
    hub.fault = on(WEIGHTS_PATH, endless)
    with pytest.raises(SourceFailed, match="more bytes than"):
        bring(from_hub(), into)
    assert (into / WEIGHTS).stat().st_size <= len(adapter(100_000)[WEIGHTS])


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("off", [-1, 1])
def test_sizes_that_are_not_those_listed(hub: Hub, into: Path, name: str, off: int) -> None:
    hub.add("org/spam", adapter())
    hub.stated[name] = len(adapter()[name]) + off
    with pytest.raises(SourceFailed, match="that were listed"):
        bring(from_hub(), into)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_content_that_is_not_what_was_listed(hub: Hub, into: Path, name: str) -> None:
    hub.add("org/spam", adapter())
    changed = adapter()[name][:-1] + b"!"
    hub.fault = lambda request: Response(changed) if request.url.path.endswith(name) else None
    with pytest.raises(SourceFailed, match="another digest"):
        bring(from_hub(), into)


def test_a_pickle_by_the_name_of_safetensors_is_left_at_its_first_bytes(hub: Hub, into: Path) -> None:
    hub.add("org/spam", adapter(100_000) | {WEIGHTS: b"PK\x03\x04" + bytes(100_000)})
    with pytest.raises(UnsupportedFormat, match="pickle"):
        bring(from_hub(), into)


def test_a_connection_that_breaks(hub: Hub, into: Path) -> None:
    hub.add("org/spam", adapter())

    def broken() -> Iterator[bytes]:
        yield b"x"

    hub.fault = on(WEIGHTS_PATH, lambda request: StreamingResponse(broken(), headers={"Content-Length": "1000"}))
    with pytest.raises(SourceFailed, match=r"cannot be read|that were listed"):
        bring(from_hub(), into)


def test_a_packed_body_is_not_unpacked(hub: Hub, into: Path) -> None:
    hub.add("org/spam", adapter())
    hub.fault = on(WEIGHTS_PATH, lambda request: Response(b"\x1f\x8bxx", headers={"Content-Encoding": "gzip"}))
    with pytest.raises((SourceFailed, InvalidRequest)):
        bring(from_hub(), into)


@pytest.mark.parametrize("pause", [0.0, 0.02])
def test_a_hub_that_takes_too_long(hub: Hub, into: Path, pause: float) -> None:
    hub.add("org/spam", adapter(900_000))
    hub.fault = on(WEIGHTS_PATH, Endless(b"x", pause))
    with pytest.raises(DeadlineExceeded, match="source_timeout"):
        bring(from_hub(), into, seconds=0.3)


# ---- redirects


def test_a_redirect_to_elsewhere_is_not_followed(hub: Hub, into: Path) -> None:
    hub.add("org/spam", adapter())
    with serving_hub() as elsewhere:
        for address in (
            f"{elsewhere.url}/x",
            elsewhere.url.replace("127.0.0.1", "localhost"),
            "http://169.254.169.254/",
        ):
            hub.fault = on(WEIGHTS_PATH, lambda request, address=address: RedirectResponse(address))
            with pytest.raises(SourceFailed, match="not among the hosts that may be read"):
                bring(from_hub(), into)
            shutil.rmtree(into)
            into.mkdir()
            hub.fault = on("/api/models/", lambda request, address=address: RedirectResponse(address))
            with pytest.raises(SourceFailed, match="not among the hosts that may be read"):
                bring(from_hub(), into)
        assert elsewhere.asked == []


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://hub/x", "gopher://hub/x", "http://[::1"])
def test_a_redirect_to_what_is_no_http(hub: Hub, into: Path, address: str) -> None:
    hub.add("org/spam", adapter())
    hub.fault = on(WEIGHTS_PATH, lambda request: Response(status_code=302, headers={"Location": address}))
    with pytest.raises(SourceFailed):
        bring(from_hub(hosts=("*",)), into)


def test_redirects_that_go_round(hub: Hub, into: Path) -> None:
    hub.add("org/spam", adapter())
    hub.fault = on(WEIGHTS_PATH, lambda request: RedirectResponse(str(request.url)))
    with pytest.raises(SourceFailed, match="more than 5 times"):
        bring(from_hub(), into)
    assert len([path for path in hub.files_asked() if path.startswith(WEIGHTS_PATH)]) == 5


def test_the_token_goes_to_the_hub_alone(hub: Hub, into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.add("org/spam", adapter())
    with serving_hub() as storage:
        storage.fault = lambda request: Response(adapter()[WEIGHTS])
        address = storage.url.replace("127.0.0.1", "localhost")
        hub.fault = on(WEIGHTS_PATH, lambda request: RedirectResponse(f"{address}/signed"))
        bring(from_hub(hosts=("localhost",)), into)
        assert storage.asked == [("/signed", "")]
    assert {token for _, token in hub.asked} == {"Bearer hf_secret"}
    assert content(into) == adapter()
