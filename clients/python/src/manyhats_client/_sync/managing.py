# Made by scripts/sync_client.py of _async/managing.py; not edited by hand.
"""What looks at tasks and changes them: their versions, aliases, settings and places."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Unpack

from manyhats_client import operations as ops
from manyhats_client._sync.sender import Sender
from manyhats_client.choices import (
    CallOptions,
    Canary,
    ConfigureOptions,
    Shadow,
    TaskSettings,
    divide,
    only_options,
)
from manyhats_client.concurrency import apart
from manyhats_client.connection import body_length, saved, translated
from manyhats_client.models import Alias, AuditEntry, Task, TaskDetails, Upload, Version
from manyhats_client.operations import Split
from manyhats_client.transfer import Progress
from manyhats_client.uploads import Adapter, Examples, examples_part, open_parts


class Managing(Sender):
    """A method for each call that reads or changes tasks."""

    # ---- tasks

    def tasks(self, limit: int = 100, *, search: str | None = None, **given: Unpack[CallOptions]) -> Iterator[Task]:
        """All tasks by name, or those with `search` in their names, fetched `limit` at a time."""
        options = only_options(given)
        token = None
        while True:
            page = self._call(ops.tasks(limit, token, search), options)
            yield from page.data
            token = page.next_page_token
            if not token:
                return

    def audit(self, limit: int = 100, *, task: str | None = None, **given: Unpack[CallOptions]) -> Iterator[AuditEntry]:
        """All changes, of one task or of all that the key may change, the newest first, fetched `limit` at a time."""
        options = only_options(given)
        token = None
        while True:
            page = self._call(ops.audit(limit, token, task), options)
            yield from page.data
            token = page.next_page_token
            if not token:
                return

    def task(self, task: str, **given: Unpack[CallOptions]) -> TaskDetails:
        """One task with its versions, aliases and settings."""
        return self._call(ops.task(task), only_options(given))

    def configure(self, task: str, **given: Unpack[ConfigureOptions]) -> TaskDetails:
        """Sets what is not weights, such as `labels`, `template`, `max_tokens`, `pooling`, `priority`."""
        options, settings = divide(given)
        return self._call(ops.configure(task, settings), options)

    def delete(self, task: str, **given: Unpack[CallOptions]) -> None:
        """Takes a task away; requests in flight finish."""
        self._call(ops.delete(task), only_options(given))

    def set_alias(
        self,
        task: str,
        alias: str,
        target: int | Split,
        *,
        affinity: str | None = None,
        shadow: Shadow | None = None,
        canary: Canary | None = None,
        **given: Unpack[CallOptions],
    ) -> TaskDetails:
        """Points an alias at a version, or at several with weights: `{2: 90, 3: 10}`.

        `affinity`: the header whose value keeps a version (X-Affinity otherwise). `shadow`: a version that is asked
        too. `canary`: which version of the split is withdrawn, and when. What is left out is no more.
        """
        rollout = {"affinity": affinity, "shadow": shadow, "canary": canary}
        return self._call(ops.set_alias(task, alias, target, rollout), only_options(given))

    def alias(self, task: str, alias: str, **given: Unpack[CallOptions]) -> Alias:
        """One alias: where it points, its shadow and its canary, and what was counted of them."""
        return self._call(ops.alias(task, alias), only_options(given))

    def delete_alias(self, task: str, alias: str, **given: Unpack[CallOptions]) -> TaskDetails:
        """Removes an alias other than `stable`; the versions stay."""
        return self._call(ops.delete_alias(task, alias), only_options(given))

    def rollback(self, task: str, version: int | None = None, **given: Unpack[CallOptions]) -> TaskDetails:
        """Points `stable` back at what it pointed at before, or at `version`."""
        return self._call(ops.rollback(task, version), only_options(given))

    # ---- versions

    def upload(
        self,
        task: str,
        adapter: Adapter,
        *,
        alias: str = "stable",
        activate: bool = True,
        settings: TaskSettings | Mapping[str, Any] | None = None,
        examples: Examples | None = None,
        max_drop: float | None = None,
        metric: str | None = None,
        progress: Progress | None = None,
        **given: Unpack[CallOptions],
    ) -> Upload:
        """Uploads an adapter as a new version.

        With labelled `examples` (a file of JSON lines, or rows) it is evaluated first, and activated only where its
        `metric` is at most `max_drop` worse than the stable version's; `activated` and `evaluation` say what followed.

        `adapter`: the path of a folder or an archive (zip, tar.gz); an archive's bytes, or its file opened in binary
        mode; or a mapping of paths, bytes or open files by the name that each is to have. `alias` points at the new
        version if `activate` is true. `settings`: as for `configure`, set together with the version. The files are read
        while they are sent; `progress` is told the bytes sent and, where it is known, how many there are.
        """
        with ExitStack() as stack:
            parts = apart(open_parts, adapter, stack)
            gate = None
            if examples is not None:
                parts = parts + apart(examples_part, examples, stack)
                gate = {"max_drop": max_drop, "metric": metric}
            elif max_drop is not None or metric is not None:
                raise ValueError("max_drop and metric need labelled examples")
            operation = ops.upload(task, parts, alias, activate, settings, progress, gate)
            return self._call(operation, only_options(given))

    def version(self, task: str, number: int, **given: Unpack[CallOptions]) -> Version:
        """One version."""
        return self._call(ops.version(task, number), only_options(given))

    def delete_version(self, task: str, number: int, **given: Unpack[CallOptions]) -> None:
        """Removes a version that no alias points at."""
        self._call(ops.delete_version(task, number), only_options(given))

    def download(
        self,
        task: str,
        number: int,
        out: str | os.PathLike[str],
        *,
        progress: Progress | None = None,
        **given: Unpack[CallOptions],
    ) -> Path:
        """Writes a version's files as a tar.gz to `out`, a file or an existing folder; returns its path.

        `progress` is told the bytes received and, where it is known, how many there are.
        """
        options = only_options(given)
        with saved(out, task, number) as (file, path), translated():
            response = self._send(ops.download(task, number), options, stream=True)
            total, received = body_length(response), 0
            with closing(response):
                for chunk in response.iter_bytes():
                    apart(file.write, chunk)
                    received += len(chunk)
                    if progress is not None:
                        progress(received, total)
        return path

    # ---- the adapter cache

    def load(self, task: str, **given: Unpack[CallOptions]) -> TaskDetails:
        """Loads the task's adapter into a slot; returns when it is there."""
        return self._call(ops.placement(task, "load"), only_options(given))

    def unload(self, task: str, **given: Unpack[CallOptions]) -> TaskDetails:
        """Gives back the memory of the task's adapters."""
        return self._call(ops.placement(task, "unload"), only_options(given))

    def lift(self, task: str, **given: Unpack[CallOptions]) -> TaskDetails:
        """Has a task asked again that was quarantined for its adapter's faults."""
        return self._call(ops.placement(task, "lift"), only_options(given))

    def pin(self, task: str, **given: Unpack[CallOptions]) -> TaskDetails:
        """Keeps the task's adapter in a slot."""
        return self._call(ops.placement(task, "pin"), only_options(given))

    def unpin(self, task: str, **given: Unpack[CallOptions]) -> TaskDetails:
        """Lets the task's adapter be evicted again."""
        return self._call(ops.placement(task, "unpin"), only_options(given))
