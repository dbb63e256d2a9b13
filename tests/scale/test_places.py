"""The folders that replicas have for their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from manyhats.errors import ConfigurationError
from manyhats.scale import places
from manyhats.scale.places import Place


def test_each_takes_the_first_that_no_other_has(tmp_path: Path) -> None:
    first, second = Place(tmp_path), Place(tmp_path)
    assert (first.folder, second.folder) == (tmp_path / "replicas" / "0", tmp_path / "replicas" / "1")
    (first.folder / "kept").touch()
    first.give_back()
    again = Place(tmp_path)
    assert again.folder == first.folder
    assert (again.folder / "kept").exists()  # what the one before has fetched


def test_a_killed_one_gives_its_folder_back(tmp_path: Path) -> None:
    program = (
        f"import os, pathlib\nfrom manyhats.scale.places import Place\np = Place(pathlib.Path({str(tmp_path)!r}))\n"
    )
    ended = subprocess.run([sys.executable, "-c", f"{program}os.kill(os.getpid(), 9)"], check=False)
    assert ended.returncode == -9
    assert Place(tmp_path).number == 0


def test_there_are_so_many_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "MOST", 2)
    taken = [Place(tmp_path), Place(tmp_path)]
    with pytest.raises(ConfigurationError, match="has 2 folders, all in use"):
        Place(tmp_path)
    del taken


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "replicas").touch()
    with pytest.raises(ConfigurationError, match="cannot be used"):
        Place(tmp_path)


def test_folders_of_the_store_are_linked_and_what_is_gone_goes(tmp_path: Path) -> None:
    for name in ("spam", "topic", ".manyhats"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes.txt").touch()
    place = Place(tmp_path)
    place.link(tmp_path)
    assert sorted(path.name for path in place.folder.iterdir()) == ["spam", "topic"]
    assert (place.folder / "spam").resolve() == (tmp_path / "spam").resolve()
    (tmp_path / "topic").rmdir()
    (tmp_path / "new").mkdir()
    place.link(tmp_path)
    assert sorted(path.name for path in place.folder.iterdir()) == ["new", "spam"]
