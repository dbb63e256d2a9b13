"""The package's face: what it exports, how it is addressed, and that both clients are alike."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import httpx
import manyhats_client as mc
import pytest

from tests.client.driver import Server, driven

OK = httpx.Response(200, json={"status": "ok"})


def test_everything_exported_is_listed() -> None:
    public = {
        name
        for name, value in vars(mc).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name != "annotations"
    }
    assert sorted(public | {"__version__"}) == sorted(mc.__all__)
    assert len(mc.__all__) == len(set(mc.__all__))


def test_every_exception_is_exported_and_drawn() -> None:
    def below(cls: type[Exception]) -> set[type[Exception]]:
        return {cls}.union(*(below(sub) for sub in cls.__subclasses__()))

    for cls in below(mc.ManyhatsError):
        assert getattr(mc, cls.__name__) is cls
        assert cls.__name__ in (mc.errors.__doc__ or "")
        assert cls.__doc__


def test_it_needs_neither_the_server_nor_torch() -> None:
    others = {"manyhats", "torch", "numpy", "pandas", "transformers"}
    code = f"import manyhats_client, sys; print({others} & set(sys.modules))"
    path = os.environ | {"PYTHONPATH": str(Path(mc.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=path)
    assert done.stdout.strip() == "set()"


def test_both_clients_have_the_same_methods() -> None:
    def methods(cls: type) -> dict[str, list[str]]:
        return {
            name: [str(parameter).split(":")[0] for parameter in inspect.signature(value).parameters.values()]
            for name, value in vars(cls).items()
            if callable(value) and not name.startswith("__")
        }

    assert methods(mc.Client) == methods(mc.AsyncClient)
    for cls in (mc.Client, mc.AsyncClient):
        assert all(value.__doc__ for name, value in vars(cls).items() if callable(value) and name[0] != "_")


@pytest.mark.parametrize(
    ("given", "environment", "asked"),
    [
        (None, None, "http://127.0.0.1:8000/healthz"),
        (None, "", "http://127.0.0.1:8000/healthz"),
        (None, "http://there:1", "http://there:1/healthz"),
        ("http://here:2/", "http://there:1", "http://here:2/healthz"),
        ("https://here/hats", None, "https://here/hats/healthz"),
    ],
)
def test_the_address(
    kind: str, given: str | None, environment: str | None, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MANYHATS_URL", raising=False)
    if environment is not None:
        monkeypatch.setenv("MANYHATS_URL", environment)
    server = Server([OK])
    with driven(kind, server, base_url=given) as client:
        client.health()
    assert str(server.requests[0].url) == asked


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "localhost:8000", "ftp://here", "here"])
def test_not_an_address(address: str) -> None:
    for cls in (mc.Client, mc.AsyncClient):
        with pytest.raises(ValueError, match="must look like"):
            cls(address)


def test_a_key_may_have_any_letters(kind: str) -> None:
    server = Server([OK])
    with driven(kind, server, api_key="schlüssel") as client:
        client.health()
    assert dict(server.requests[0].headers.raw)[b"Authorization"] == "Bearer schlüssel".encode()


def test_the_key(kind: str) -> None:
    server = Server([OK])
    with driven(kind, server, api_key=" hat-123\n") as client:
        client.health()
        assert "hat-123" not in repr(client.client)
        assert "hats.test" in repr(client.client)
    assert server.requests[0].headers["authorization"] == "Bearer hat-123"
    assert server.requests[0].headers["user-agent"] == f"manyhats-client/{mc.__version__}"
    with driven(kind, server) as client:
        client.health()
    assert "authorization" not in server.requests[1].headers


def test_the_timeout(kind: str) -> None:
    server = Server([OK])
    with driven(kind, server, timeout=2.5) as client:
        client.health()
    with driven(kind, server, timeout=None) as client:
        client.health()
    first, second = (request.extensions["timeout"] for request in server.requests)
    assert set(first.values()) == {2.5}
    assert set(second.values()) == {None}


def test_the_key_may_come_from_the_environment(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANYHATS_KEY", "from-there")
    server = Server([OK])
    for given in (None, "own", ""):
        with driven(kind, server, api_key=given) as client:
            client.health()
    assert [r.headers.get("authorization") for r in server.requests] == ["Bearer from-there", "Bearer own", None]


def test_headers_of_every_request(kind: str) -> None:
    server = Server([OK])
    with driven(kind, server, headers={"X-Team": "blue", "User-Agent": "mine"}) as client:
        client.health(headers={"X-Team": "red"})
        client.health()
    assert [request.headers["x-team"] for request in server.requests] == ["red", "blue"]
    assert server.requests[0].headers["user-agent"] == "mine"


def test_the_blocking_half_is_made_of_the_other() -> None:
    for tool in ("unasync", "ruff"):  # of `make install`, but not of every environment
        pytest.importorskip(tool)
    from scripts.sync_client import made

    folder = Path(mc.__file__).parent / "_sync"
    assert {path.name: path.read_text("utf-8") for path in folder.glob("*.py")} == made(), "run make sync-client"


def test_closing(kind: str) -> None:
    with driven(kind, Server([OK])) as client:
        if kind == "blocking":
            with client.client as entered:
                assert entered is client.client
        else:

            async def enter() -> None:
                async with client.client as entered:
                    assert entered is client.client

            client._runner.run(enter())
        with pytest.raises(RuntimeError, match="closed"):
            client.health()
