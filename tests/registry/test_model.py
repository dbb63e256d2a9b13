"""The registry beside a model of it: the same operations at random must give the same state."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from manyhats.errors import Conflict, NotFound, TooLarge
from manyhats.registry.blobs import digest
from manyhats.registry.records import Target, TaskSettings, Version
from manyhats.registry.registry import Registry

from tests.amounts import tried
from tests.registry.helpers import blobs, inspect, staged, upload

TASKS = ("ham", "spam", "x.y-z")
MAX_TASKS, MAX_VERSIONS = 2, 4
Targets = tuple[Target, ...]

tasks = st.sampled_from(TASKS)
contents = st.sampled_from("abcde")
aliases = st.sampled_from(("stable", "canary"))
numbers = st.integers(1, 5)
splits = st.lists(
    st.builds(Target, numbers, st.sampled_from((1.0, 2.5))), min_size=1, max_size=3, unique_by=lambda t: t.version
)


@dataclass
class Model:
    """One task, as it should be."""

    versions: dict[int, str] = field(default_factory=dict)  # content by number
    following: int = 1
    aliases: dict[str, Targets] = field(default_factory=dict)
    history: list[Targets] = field(default_factory=list)
    settings: dict[str, object] = field(default_factory=dict)

    def point(self, alias: str, targets: Targets) -> None:
        """Moves an alias."""
        before = self.aliases.get(alias)
        if before != targets:
            if alias == "stable" and before:
                self.history.append(before)
            self.aliases[alias] = targets


class Machine(RuleBasedStateMachine):
    """Every write of the registry, restarts, and pins that are held across deletions."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.model: dict[str, Model] = {}
        self.pins: list[Version] = []
        self.open()

    def open(self) -> None:
        """Opens the store."""
        self.registry = Registry(self.folder, inspect, max_tasks=MAX_TASKS, max_versions=MAX_VERSIONS)
        self.registry.open()

    def teardown(self) -> None:
        self.registry.close()
        shutil.rmtree(self.folder)

    # ---- operations

    @rule(name=tasks, content=contents, alias=aliases, activate=st.booleans(), priority=st.none() | st.integers(1, 3))
    def add(self, name: str, content: str, alias: str, activate: bool, priority: int | None) -> None:
        given = None if priority is None else TaskSettings(priority=priority)
        task = self.model.get(name)
        known = next((n for n, c in task.versions.items() if c == content), None) if task else None
        full = len(task.versions) >= MAX_VERSIONS if task else len(self.model) >= MAX_TASKS
        if known is None and full:
            with pytest.raises(TooLarge):
                upload(self.registry, name, content, alias=alias, activate=activate, settings=given)
            return
        version = upload(self.registry, name, content, alias=alias, activate=activate, settings=given)
        task = self.model.setdefault(name, Model())
        if known is None:
            known = task.following
            task.versions[known] = content
            task.following += 1
        assert version.number == known
        if priority is not None:
            task.settings["priority"] = priority
        if activate:
            task.point(alias, (Target(known),))

    @rule(name=tasks)
    def delete(self, name: str) -> None:
        if name in self.model:
            self.registry.delete_task(name)
            del self.model[name]
        else:
            with pytest.raises(NotFound):
                self.registry.delete_task(name)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), number=numbers)
    def delete_version(self, data: st.DataObject, number: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.model)))
        task = self.model[name]
        held = any(target.version == number for targets in task.aliases.values() for target in targets)
        if number not in task.versions or held:
            with pytest.raises(Conflict if held else NotFound):
                self.registry.delete_version(name, number)
            return
        self.registry.delete_version(name, number)
        del task.versions[number]
        task.history = [targets for targets in task.history if all(t.version != number for t in targets)]

    @precondition(lambda self: self.model)
    @rule(data=st.data(), alias=aliases, split=splits)
    def set_alias(self, data: st.DataObject, alias: str, split: list[Target]) -> None:
        name = data.draw(st.sampled_from(sorted(self.model)))
        task = self.model[name]
        if any(target.version not in task.versions for target in split):
            with pytest.raises(NotFound):
                self.registry.set_alias(name, alias, split)
        else:
            self.registry.set_alias(name, alias, split)
            task.point(alias, tuple(split))

    @precondition(lambda self: self.model)
    @rule(data=st.data(), alias=aliases)
    def delete_alias(self, data: st.DataObject, alias: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.model)))
        task = self.model[name]
        if alias == "stable" or alias not in task.aliases:
            with pytest.raises(Conflict if alias == "stable" else NotFound):
                self.registry.delete_alias(name, alias)
        else:
            self.registry.delete_alias(name, alias)
            del task.aliases[alias]

    @precondition(lambda self: self.model)
    @rule(data=st.data(), to=st.none() | numbers)
    def roll_back(self, data: st.DataObject, to: int | None) -> None:
        name = data.draw(st.sampled_from(sorted(self.model)))
        task = self.model[name]
        if to is not None:
            if to in task.versions:
                self.registry.rollback(name, to)
                task.point("stable", (Target(to),))
            else:
                with pytest.raises(NotFound):
                    self.registry.rollback(name, to)
            return
        now = task.aliases.get("stable")
        back = [i for i, targets in enumerate(task.history) if targets != now]
        if not back:
            with pytest.raises(Conflict):
                self.registry.rollback(name)
            return
        self.registry.rollback(name)
        task.aliases["stable"] = task.history[back[-1]]
        del task.history[back[-1] :]

    @precondition(lambda self: self.model)
    @rule(data=st.data(), max_tokens=st.none() | st.integers(1, 9))
    def put_settings(self, data: st.DataObject, max_tokens: int | None) -> None:
        name = data.draw(st.sampled_from(sorted(self.model)))
        self.registry.put_settings(name, {"max_tokens": max_tokens})
        self.model[name].settings["max_tokens"] = max_tokens

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model)))
        number = data.draw(st.sampled_from(sorted(self.model[name].versions) or [1]))
        if number in self.model[name].versions:
            self.pins.append(self.registry.pin(f"{name}@{number}"))

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        self.registry.unpin(self.pins.pop(data.draw(st.integers(0, len(self.pins) - 1))))

    @rule()
    def restart(self) -> None:
        before = self.registry.all()
        self.registry.close()
        self.pins.clear()
        self.open()
        assert sorted(self.registry.all(), key=lambda task: task.name) == sorted(before, key=lambda task: task.name)

    # ---- what always holds

    @invariant()
    def it_is_as_the_model_says(self) -> None:
        assert [task.name for task in self.registry.tasks(100, None)[0]] == sorted(self.model)
        assert self.registry.count == len(self.model)
        for name, expected in self.model.items():
            task = self.registry.task(name)
            assert [version.number for version in task.versions] == list(expected.versions)
            assert dict(task.aliases) == expected.aliases
            assert (task.settings.priority, task.settings.max_tokens) == (
                expected.settings.get("priority", 0),
                expected.settings.get("max_tokens"),
            )
            for version in task.versions:
                weights = (self.registry.files(version) / "adapter_model.safetensors").read_bytes()
                assert weights.endswith(b":" + expected.versions[version.number].encode())

    @invariant()
    def the_files_are_those_of_versions_and_pins(self) -> None:
        versions = [version for task in self.registry.all() for version in task.versions]
        wanted = Counter(version.sha256 for version in (*versions, *self.pins))
        assert blobs(self.folder) == set(wanted)
        assert staged(self.folder) == []
        for version in self.pins:
            assert digest(self.registry.files(version)) == version.sha256


@tried(10, 100)
def test_random_operations_agree_with_the_model(amount: int) -> None:
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=amount, stateful_step_count=40, deadline=None, derandomize=True)
    )
