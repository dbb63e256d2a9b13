"""A store, looked at from beside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock
from manyhats.registry.store_state import LOCK, OWN_FOLDER, is_locked, store_state


def test_the_states_of_a_store(tmp_path: Path) -> None:
    store = tmp_path / "deep" / "store"
    assert store_state(store) == "not there yet; a server makes it"
    assert not store.parent.exists()
    store.mkdir(parents=True)
    assert store_state(store) == "a folder that no server has used yet"
    (store / OWN_FOLDER).mkdir()
    assert store_state(store) == "no server has it"
    assert not (store / OWN_FOLDER / LOCK).exists()
    with FileLock(store / OWN_FOLDER / LOCK):
        assert store_state(store) == "a server has it"
    assert store_state(store) == "no server has it"
    (tmp_path / "file").touch()
    assert store_state(tmp_path / "file") == "no folder"
    assert store_state(tmp_path / "file" / "store") == "no folder"


def test_a_store_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert store_state(tmp_path) == "cannot be written"


def test_looking_leaves_the_lock_free(tmp_path: Path) -> None:
    lock = tmp_path / OWN_FOLDER / LOCK
    lock.parent.mkdir()
    lock.touch()
    assert not is_locked(tmp_path)
    with FileLock(lock, timeout=0):
        assert is_locked(tmp_path)
