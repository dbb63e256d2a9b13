"""What holds for a version of a task: its settings, and the parameters of a request that gives none."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from manyhats.backbone import Backbone
from manyhats.core.kinds.base import Kind, Parameters
from manyhats.core.kinds.registry import KINDS
from manyhats.registry.names import BASE
from manyhats.registry.records import Task, TaskSettings, Version
from manyhats.registry.registry import Registry
from manyhats.registry.visibility import check_base
from manyhats.serving.parameters import parse_parameters

_MAX_VIEWS = 8192

Completed = tuple[Parameters, TaskSettings]


@dataclass(slots=True)
class TaskView:
    """A version as the task's settings have it. `task`: None for the bare backbone.

    `plain`: parameters and settings of a request that gives no parameters, once one has been asked.
    """

    task: Task | None
    version: Version
    settings: TaskSettings
    plain: Completed | None = None

    @property
    def kind(self) -> Kind[Any]:
        """The kind: the task's setting, else that of the version's files."""
        return KINDS[self.settings.kind or self.version.info.kind]


def settings_of(registry: Registry, task: str) -> TaskSettings:
    """The settings of the version that `task`, `task@alias` or `task@3` means now; none of the bare backbone's.

    Raises NotFound.
    """
    if task == BASE:
        check_base()
        return TaskSettings()
    version = registry.resolve(task)
    return registry.task(version.task).settings_for(version)


class TaskViews:
    """Makes each view once. Records never change: a task that has changed is another record, and has a new view.

    May be used from any thread: two may make the same view, which does no harm.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._views: dict[tuple[str, int, str], TaskView] = {}

    def of(self, task: Task | None, version: Version) -> TaskView:
        """The view of a task's version."""
        key = version.task, version.number, version.info.kind
        known = self._views.get(key)
        if known is not None and known.task is task and known.version is version:
            return known
        view = TaskView(task, version, TaskSettings() if task is None else task.settings_for(version))
        if len(self._views) >= _MAX_VIEWS:  # those of deleted tasks among them
            with suppress(KeyError, StopIteration, RuntimeError):  # another thread is about it
                del self._views[next(iter(self._views))]
        self._views[key] = view
        return view

    def complete(
        self, view: TaskView, defaults: Mapping[str, Any], given: Mapping[str, Any], names: Mapping[str, str]
    ) -> Completed:
        """The parameters of a request, and the settings that hold for it.

        `defaults`: parameters that neither the task nor the request sets; `names`: the caller's names of parameters.
        Raises InvalidRequest for parameters that the task's kind does not have or the backbone does not support.
        """
        kind = view.kind
        plain = not given and not defaults
        if plain and view.plain is not None:
            return view.plain
        merged = {**defaults, **view.settings.defaults}
        parameters = parse_parameters(kind.name, view.version.task, merged, given, names)
        completed: Completed = kind.complete(parameters, view.settings, self._backbone, view.version.info.num_labels)
        if plain:
            view.plain = completed
        return completed
