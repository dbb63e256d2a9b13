"""The blocking client."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from manyhats_client import operations as ops
from manyhats_client.connection import DEFAULT_TIMEOUT, Seconds, options, saved, translated
from manyhats_client.errors import ManyhatsError, ServerNotReady, from_response
from manyhats_client.models import Health, Prediction, Result, Task, TaskDetails, Upload, Version
from manyhats_client.operations import Inputs, Operation, Question, Split
from manyhats_client.retries import NOT_YET, ReadyWait, Retries
from manyhats_client.uploads import Files, open_parts

T = TypeVar("T")


class Client:
    """Talks to a Manyhats server.

    Wherever a task is asked it may be written `task`, `task@alias` or `task@3`. Close the client when
    done, or use it in a `with` statement. It may be shared between threads.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: Seconds = DEFAULT_TIMEOUT,
        max_retries: int = 2,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`base_url`: left out, the environment variable MANYHATS_URL, or http://127.0.0.1:8000.

        `timeout`: seconds to connect, and to wait for the next chunk of an answer; None waits for ever.
        `max_retries`: how often a refusal (429, 503) or a connection that was never made is tried again.
        `transport`: httpx's, for a Unix socket, a proxy or tests. `sleep`: waits between tries.
        """
        self._http = httpx.Client(**options(base_url, api_key, timeout), transport=transport)
        self._retries = Retries(max_retries)
        self._sleep = sleep

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._http.base_url)!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    # ---- asking

    def predict(self, task: str, inputs: Inputs, **parameters: Any) -> Prediction:
        """Asks one task; the answer has one output for each input, in order."""
        return self._call(ops.predict(task, inputs, parameters))

    def predict_many(self, questions: Iterable[Question]) -> list[Result]:
        """Asks many questions at once: `[{"task": ..., "inputs": ..., "parameters": {...}}, ...]`.

        The results are in the order asked. One that failed is a Failure in its place, and leaves the
        others alone; a Failure is not tried again.
        """
        return self._call(ops.predict_many(questions))

    def predict_tasks(self, tasks: Iterable[str], inputs: Inputs, **parameters: Any) -> list[Result]:
        """Asks several tasks about the same inputs; one result for each task, as from `predict_many`."""
        return self._call(ops.predict_tasks(tasks, inputs, parameters))

    # ---- tasks

    def tasks(self, limit: int = 100) -> Iterator[Task]:
        """All tasks by name, fetched `limit` at a time."""
        token = None
        while True:
            page = self._call(ops.tasks(limit, token))
            yield from page.data
            token = page.next_page_token
            if not token:
                return

    def task(self, task: str) -> TaskDetails:
        """One task with its versions, aliases and settings."""
        return self._call(ops.task(task))

    def configure(self, task: str, **settings: Any) -> TaskDetails:
        """Sets what is not weights, such as `labels`, `template`, `max_tokens`, `pooling`, `priority`."""
        return self._call(ops.configure(task, settings))

    def delete(self, task: str) -> None:
        """Takes a task away; requests in flight finish."""
        self._call(ops.delete(task))

    def set_alias(self, task: str, alias: str, target: int | Split) -> TaskDetails:
        """Points an alias at a version, or at several with weights: `{2: 90, 3: 10}`."""
        return self._call(ops.set_alias(task, alias, target))

    def delete_alias(self, task: str, alias: str) -> TaskDetails:
        """Removes an alias other than `stable`; the versions stay."""
        return self._call(ops.delete_alias(task, alias))

    def rollback(self, task: str, version: int | None = None) -> TaskDetails:
        """Points `stable` back at what it pointed at before, or at `version`."""
        return self._call(ops.rollback(task, version))

    # ---- versions

    def upload(
        self,
        task: str,
        path: str | os.PathLike[str] | Files,
        *,
        alias: str = "stable",
        activate: bool = True,
        settings: Mapping[str, Any] | None = None,
    ) -> Upload:
        """Uploads an adapter as a new version: a folder, an archive (zip, tar.gz), or files by name.

        `alias` points at the new version if `activate` is true. `settings`: as for `configure`, set
        together with the version. The files are read while they are sent.
        """
        with ExitStack() as stack:
            parts = open_parts(path, stack)
            return self._call(ops.upload(task, parts, alias, activate, settings))

    def version(self, task: str, number: int) -> Version:
        """One version."""
        return self._call(ops.version(task, number))

    def delete_version(self, task: str, number: int) -> None:
        """Removes a version that no alias points at."""
        self._call(ops.delete_version(task, number))

    def download(self, task: str, number: int, out: str | os.PathLike[str]) -> Path:
        """Writes a version's files as a tar.gz to `out`, a file or an existing folder; returns its path."""
        with (
            saved(out, task, number) as (file, path),
            closing(self._send(ops.download(task, number), stream=True)) as response,
            translated(),
        ):
            for chunk in response.iter_bytes():
                file.write(chunk)
        return path

    # ---- the adapter cache

    def load(self, task: str) -> TaskDetails:
        """Loads the task's adapter into a slot; returns when it is there."""
        return self._call(ops.placement(task, "load"))

    def unload(self, task: str) -> TaskDetails:
        """Gives back the memory of the task's adapters."""
        return self._call(ops.placement(task, "unload"))

    def pin(self, task: str) -> TaskDetails:
        """Keeps the task's adapter in a slot."""
        return self._call(ops.placement(task, "pin"))

    def unpin(self, task: str) -> TaskDetails:
        """Lets the task's adapter be evicted again."""
        return self._call(ops.placement(task, "unpin"))

    # ---- the server

    def health(self) -> Health:
        """Says that the process lives."""
        return self._call(ops.health())

    def ready(self) -> bool:
        """Whether the server can answer now; false while it starts or drains."""
        try:
            self._call(ops.ready())
        except ServerNotReady:
            return False
        return True

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Returns once the server is ready. Raises Timeout after `timeout` seconds."""
        wait = ReadyWait(timeout)
        while True:
            try:
                return self._call(ops.ready(wait.timeout_of_one))
            except NOT_YET as error:
                pause = wait.pause(error)
            self._sleep(pause)

    # ---- sending

    def _call(self, operation: Operation[T]) -> T:
        return operation.read(self._send(operation))

    def _send(self, operation: Operation[Any], *, stream: bool = False) -> httpx.Response:
        """The answer, if it is in order; with `stream` its body is still to be read."""
        tried = 0
        while True:
            tried += 1
            try:
                return self._send_once(operation, stream)
            except ManyhatsError as failure:
                pause = self._retries.pause(failure, tried) if operation.retry else None
                if pause is None:
                    raise
            self._sleep(pause)

    def _send_once(self, operation: Operation[Any], stream: bool) -> httpx.Response:
        with translated():
            response = self._http.send(operation.request(self._http), stream=stream)
            if response.is_success:
                return response
            response.read()
        raise from_response(response)
