"""Which faults count, when an adapter is quarantined, and what lifts it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from manyhats.errors import AdapterFailure, AdapterQuarantined, EngineFailure, InvalidRequest, OutOfMemory
from manyhats.registry.records import AdapterInfo, Version
from manyhats.serving.faulty_adapters import FaultyAdapters, as_answer, loading_failure, rendering_failure

INFO = AdapterInfo("lora", "classify", 1, 1, 1, None, None, None, {})


def version(task: str = "spam", number: int = 1, sha: str = "") -> Version:
    return Version(task, number, sha or f"{task}{number}", INFO, 0.0)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def faulty(clock: Clock) -> FaultyAdapters:
    return FaultyAdapters(3, 60.0, clock)


def test_enough_faults_within_the_window_quarantine(faulty: FaultyAdapters, clock: Clock) -> None:
    bad, other = version(), version("other")
    for _ in range(2):
        faulty.add(bad, AdapterFailure("not finite"))
        faulty.check([bad])
    clock.now = 61.0
    faulty.add(bad, AdapterFailure("not finite"))
    faulty.add(bad, AdapterFailure("not finite"))
    faulty.check([bad])
    faulty.add(bad, AdapterFailure("not finite, again"))
    with pytest.raises(
        AdapterQuarantined, match=r"spam@1 is quarantined: it failed 3 times within 60 s.*again"
    ) as raised:
        faulty.check([other, bad])
    assert "manyhats lift spam" in raised.value.message
    faulty.check([other])
    assert (faulty.faults, faulty.quarantines) == (5, 1)
    assert "3 times" in (faulty.of(bad) or "")
    faulty.check([version(number=2)])  # another version has other files
    with pytest.raises(AdapterQuarantined):
        faulty.check([version("copy", 1, sha="spam1")])  # the same files are the same adapter


def test_lifting_forgets_the_faults(faulty: FaultyAdapters) -> None:
    bad = version()
    for _ in range(3):
        faulty.add(bad, AdapterFailure("not finite"))
    assert faulty.lift([bad, version("other")]) == [bad]
    faulty.check([bad])
    for _ in range(2):
        faulty.add(bad, AdapterFailure("not finite"))
    faulty.check([bad])
    assert faulty.lift([bad]) == []
    faulty.add(bad, AdapterFailure("not finite"))
    faulty.check([bad])
    assert not faulty.reasons


def test_what_is_not_the_adapters_own_does_not_count(faulty: FaultyAdapters) -> None:
    for error in (EngineFailure("the server"), InvalidRequest("the caller"), OutOfMemory("memory"), ValueError("x")):
        for _ in range(9):
            faulty.add(version(), error)
    assert (faulty.faults, faulty.reasons) == (0, {})


def test_one_error_counts_once_for_all_who_waited(faulty: FaultyAdapters) -> None:
    cause = RuntimeError("binding failed")
    for _ in range(9):
        faulty.add(version(), loading_failure(version(), cause))  # type: ignore[arg-type]
    assert faulty.faults == 1
    assert not faulty.reasons


def test_nothing_is_quarantined_without_a_bound() -> None:
    faulty = FaultyAdapters(0, 60.0)
    for _ in range(100):
        faulty.add(version(), AdapterFailure("not finite"))
    assert faulty.faults == 100
    faulty.check([version()])


def test_what_callers_can_make_grow_is_bounded(faulty: FaultyAdapters, monkeypatch: Any) -> None:
    monkeypatch.setattr("manyhats.serving.faulty_adapters._MAX_WATCHED", 10)
    monkeypatch.setattr("manyhats.serving.faulty_adapters._MAX_QUARANTINED", 5)
    for i in range(50):
        faulty.add(version("merged", i), AdapterFailure("not finite"))
    assert len(faulty._faults) == 10
    for i in range(50):
        for _ in range(3):
            faulty.add(version("merged", i), AdapterFailure("not finite"))
    assert len(faulty.reasons) == 5


def test_errors_of_the_disk_and_of_memory_are_not_the_adapters() -> None:
    for error in (OSError("disk"), MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), InvalidRequest("x")):
        assert loading_failure(version(), error) is error
    assert rendering_failure(version(), MemoryError()) is not None
    failure = loading_failure(version(), KeyError("secret"))
    assert isinstance(failure, AdapterFailure)
    assert "spam@1" in failure.message
    assert "secret" not in failure.message
    assert isinstance(rendering_failure(version(), KeyError("secret")), AdapterFailure)
    assert type(as_answer(KeyError("secret"))) is EngineFailure
