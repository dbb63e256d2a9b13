"""Opening a store: damaged, of a newer server, in use, or not a store at all. One line each, and nothing is lost."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from manyhats.errors import ConfigurationError, DamagedStore, NotFound
from manyhats.registry.records import Target
from manyhats.registry.registry import Registry

from tests.processes import Launcher, Process
from tests.registry.helpers import blobs, inspect, staged, upload

Open = Callable[..., Registry]


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed store with 30 versions of one task."""
    store = tmp_path_factory.mktemp("closed") / "store"
    registry = Registry(store, inspect)
    registry.open()
    for number in range(30):
        upload(registry, "spam", str(number), labels=["a", "b"])
    registry.close()
    return store


@pytest.fixture
def database(closed: Path, store: Path) -> Path:
    """The database of a copy of it."""
    shutil.copytree(closed, store, symlinks=True)
    return store / ".manyhats" / "registry.sqlite3"


def refused(store: Path) -> str:
    """What is said of a store that cannot be opened. Its files stay, and it is free again."""
    before = blobs(store)
    for _ in range(2):
        with pytest.raises(ConfigurationError) as caught:
            Registry(store, inspect).open()
    assert blobs(store) == before
    assert "\n" not in caught.value.message
    assert "another server" not in caught.value.message
    return caught.value.message


def change(database: Path, statement: str) -> None:
    connection = sqlite3.connect(database)
    with connection:
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize("page", range(16))
def test_a_damaged_page_is_found_whichever_it_is(store: Path, database: Path, page: int) -> None:
    size = 4096
    with database.open("r+b") as file:
        file.seek(page * size)
        assert file.read(1), "the database has fewer pages"
        file.seek(page * size)
        file.write(b"\xff" * size)
    assert "database" in refused(store)


@pytest.mark.parametrize("left", [1, 100, 4096, 20_000])
def test_a_database_that_was_cut_off_is_found(store: Path, database: Path, left: int) -> None:
    os.truncate(database, left)
    assert "database" in refused(store)


@pytest.mark.parametrize("how", ["removed", "emptied", "without a schema"])
def test_a_lost_database_does_not_take_the_files_with_it(store: Path, database: Path, how: str) -> None:
    """To the clean-up, a blob that no version names is what a killed process left."""
    if how == "removed":
        database.unlink()
    elif how == "emptied":
        os.truncate(database, 0)
    else:
        change(database, "DROP TABLE schema")
    assert "its database is lost" in refused(store)
    assert len(blobs(store)) == 30


def test_a_database_that_was_brought_back_is_used(store: Path, database: Path, opened: Open) -> None:
    saved = database.read_bytes()
    database.unlink()
    refused(store)
    database.write_bytes(saved)
    assert len(opened(store).task("spam").versions) == 30


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE versions SET info = '{' WHERE number = 3",
        "UPDATE versions SET info = '{}' WHERE number = 3",
        "UPDATE versions SET info = '[1]' WHERE number = 3",
        """UPDATE tasks SET settings = '{"priority": 99}'""",
        "UPDATE aliases SET targets = '[[1]]'",
        "UPDATE aliases SET targets = '7'",
        "ALTER TABLE versions DROP COLUMN info",
    ],
)
def test_rows_that_were_never_written_are_found(store: Path, database: Path, statement: str) -> None:
    change(database, statement)
    assert "the store's database" in refused(store)


def test_a_newer_schema_is_left_as_it_is(store: Path, database: Path) -> None:
    change(database, "UPDATE schema SET version = 99")
    before = database.read_bytes()
    assert "newer Manyhats (schema 99" in refused(store)
    assert database.read_bytes() == before


@pytest.mark.parametrize("name", ["blobs", "staging"])
def test_a_file_in_the_place_of_a_folder_is_found(store: Path, database: Path, name: str) -> None:
    place = database.parent / name
    shutil.rmtree(place)
    place.write_text("")
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="cannot be used"):
            Registry(store, inspect).open()


def test_stray_files_are_cleared_away(store: Path, database: Path, opened: Open, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_text("x")
    for name in ("blobs", "staging"):
        (database.parent / name / "file").write_text("")
        (database.parent / name / "link").symlink_to(tmp_path / "outside", target_is_directory=True)
        (database.parent / name / "folder").mkdir()
    registry = opened(store)
    assert blobs(store) == {version.sha256 for version in registry.task("spam").versions}
    assert staged(store) == []
    assert (tmp_path / "outside" / "precious").exists()


def test_a_second_process_is_refused(store: Path, opened: Open, launcher: Launcher, tmp_path: Path) -> None:
    registry = opened(store)
    upload(registry, "spam", "one")
    script = (
        "import sys\nfrom pathlib import Path\nfrom manyhats.errors import ConfigurationError\n"
        "from manyhats.registry.registry import Registry\nregistry = Registry(Path(sys.argv[1]), None)\n"
        "try:\n    registry.open()\n"
        "except ConfigurationError as error:\n    print(error)\n"
        "else:\n    print(registry.count)\n    registry.close()\n"
    )

    def said_by_another(number: int) -> str:
        needs = ["manyhats.registry.registry"]
        other = Process(launcher, tmp_path / f"log-{number}", [str(store)], script=script, needs=needs)
        assert other.end() == 0, other.text
        return other.text

    assert said_by_another(1) == f"another server uses the store '{store}'\n"
    assert upload(registry, "spam", "two").number == 2
    registry.close()
    assert said_by_another(2) == "1\n"


# ---- an alias to a version that is not there


LOST = [
    "UPDATE aliases SET targets = '[[99, 1.0]]'",
    "UPDATE aliases SET targets = '[[1, 1.0], [99, 1.0]]'",
    "DELETE FROM versions WHERE number = 30",
]


@pytest.fixture
def lost(store: Path, database: Path, opened: Open) -> Callable[[str], Registry]:
    """The copy with a second task, its alias `stable` lost as a statement says."""

    def open_lost(statement: str) -> Registry:
        change(database, statement)
        registry = opened(store)
        upload(registry, "well", "well")
        return registry

    return open_lost


@pytest.mark.parametrize("statement", LOST)
def test_an_alias_to_no_version_is_named_and_the_others_go_on(
    lost: Callable[[str], Registry], caplog: pytest.LogCaptureFixture, statement: str
) -> None:
    registry = lost(statement)
    assert re.search(r"damaged: in the task spam the alias 'stable' points at version (99|30)", caplog.text)
    assert registry.resolve("well").number == 1
    assert registry.resolve("spam@3").number == 3
    with pytest.raises(DamagedStore, match="stable"):
        registry.pin("spam")
    task = registry.task("spam")
    assert (task.stable, task.stable_versions, set(task.lost)) == (None, [], {"stable"})


@pytest.mark.parametrize("how", ["alias", "rollback", "upload"])
def test_an_alias_to_no_version_can_be_pointed_at_one(
    lost: Callable[[str], Registry], store: Path, opened: Open, how: str
) -> None:
    registry = lost(LOST[0])
    if how == "alias":
        registry.set_alias("spam", "stable", [Target(7)])
    elif how == "rollback":
        registry.rollback("spam")
    else:
        upload(registry, "spam", "6", labels=["a", "b"])
    expected = {"alias": 7, "rollback": 29, "upload": 7}[how]
    for one in (registry, None):
        if one is None:
            registry.close()
            one = opened(store)
        assert one.resolve("spam").number == expected
        assert one.task("spam").lost == {}


def test_an_alias_to_no_version_can_be_removed(store: Path, database: Path, opened: Open) -> None:
    change(database, "INSERT INTO aliases VALUES ('spam', 'canary', '[[77, 1.0]]')")
    registry = opened(store)
    assert registry.resolve("spam").number == 30
    registry.delete_alias("spam", "canary")
    with pytest.raises(NotFound):
        registry.resolve("spam@canary")


def test_a_way_back_to_no_version_is_passed_over(store: Path, database: Path, opened: Open) -> None:
    change(database, "DELETE FROM versions WHERE number IN (28, 29)")
    assert opened(store).rollback("spam").stable_versions[0].number == 27


def test_rows_of_no_task_are_named(store: Path, database: Path, opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    change(database, "INSERT INTO aliases VALUES ('gone', 'stable', '[[1, 1.0]]')")
    assert opened(store).count == 1
    assert "a task gone that is not there" in caplog.text
