"""A hub on a loopback port that speaks as much of the Hugging Face hub's API as downloads need, and can misbehave."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import quote

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from tests.waiting import PATIENCE, wait_until

Files = dict[str, bytes]
Fault = Callable[[Request], Response | None]


def git_sha1(data: bytes) -> str:
    """What git calls a file of that content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Repository:
    """Files by commit, and commits by branch or tag."""

    commits: dict[str, Files] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    needs: str = ""  # the token without which it is not there

    def commit(self, files: Files, ref: str = "main") -> str:
        """A commit of exactly these files, and its name."""
        name = hashlib.sha1(repr((sorted(files.items()), len(self.commits))).encode()).hexdigest()
        self.commits[name] = dict(files)
        self.refs[ref] = name
        return name


class Hub:
    """The server. `asked`: the paths that it was asked for, each with the token that came with it. `fault`: has the
    first word on each request."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.asked: list[tuple[str, str]] = []
        self.fault: Fault = lambda request: None
        self.wait: Callable[[float], object] | None = None  # holds each answer back, for at most so many seconds
        self.stated: dict[str, int] = {}  # sizes that the list says, where they are wrong
        self.url = ""

    def add(self, name: str, files: Files, **options: str) -> str:
        """A repository with one commit on `main`, and that commit."""
        self.repositories[name] = Repository(**options)
        return self.repositories[name].commit(files)

    def files_asked(self) -> list[str]:
        """The files of which a byte was asked for, but for the list."""
        return [path for path, _ in self.asked if not path.startswith("/api/models/")]

    def app(self) -> FastAPI:
        """Its routes."""
        app = FastAPI()

        @app.middleware("http")
        async def noted(request: Request, call_next):
            self.asked.append((request.url.path, request.headers.get("authorization", "")))
            if self.wait is not None:
                await asyncio.to_thread(self.wait, PATIENCE)
            return self.fault(request) or await call_next(request)

        @app.get("/api/models/{owner}/{name}/revision/{revision:path}")
        def listed(owner: str, name: str, revision: str, request: Request) -> Response:
            found = self._found(f"{owner}/{name}", revision, request)
            if isinstance(found, Response):
                return found
            commit, files = found
            siblings = []
            for file, data in files.items():
                size = self.stated.get(file, len(data))
                entry = {"rfilename": file, "size": size, "blobId": git_sha1(data)}
                if file.endswith(".safetensors"):
                    digest = hashlib.sha256(data).hexdigest()
                    entry["lfs"] = {"sha256": digest, "size": size, "pointerSize": 134}
                siblings.append(entry)
            return JSONResponse({"id": f"{owner}/{name}", "sha": commit, "siblings": siblings})

        @app.api_route("/{owner}/{name}/resolve/{revision}/{file:path}", methods=["GET", "HEAD"])
        def resolved(owner: str, name: str, revision: str, file: str, request: Request) -> Response:
            found = self._found(f"{owner}/{name}", revision, request)
            if isinstance(found, Response):
                return found
            commit, files = found
            if file not in files:
                return Response(status_code=404, headers={"X-Error-Code": "EntryNotFound"})
            large = file.endswith(".safetensors")
            data = files[file]
            etag = hashlib.sha256(data).hexdigest() if large else git_sha1(data)
            headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "X-Linked-Etag": f'"{etag}"'}
            headers["X-Linked-Size"] = str(len(data))
            if not large:
                return Response(data, headers=headers, media_type="text/plain")
            return RedirectResponse(f"/lfs/{commit}/{owner}/{name}/{quote(file)}", 302, headers)

        @app.api_route("/lfs/{commit}/{owner}/{name}/{file:path}", methods=["GET", "HEAD"])
        def large(commit: str, owner: str, name: str, file: str) -> Response:
            data = self.repositories[f"{owner}/{name}"].commits[commit][file]
            headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
            return Response(data, headers=headers, media_type="binary/octet-stream")

        return app

    def _found(self, name: str, revision: str, request: Request) -> tuple[str, Files] | Response:
        repository = self.repositories.get(name)
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if repository is None or repository.needs not in ("", token):
            status = 404 if repository is None else 401
            return JSONResponse({"error": "Repository not found"}, status, {"X-Error-Code": "RepoNotFound"})
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            return JSONResponse({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
        return commit, repository.commits[commit]


@contextmanager
def serving_hub() -> Iterator[Hub]:
    """A running hub on a free port."""
    hub = Hub()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        hub.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        server = uvicorn.Server(
            uvicorn.Config(hub.app(), log_level="error", lifespan="off", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        wait_until(lambda: server.started, "the hub has started")
        try:
            yield hub
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
