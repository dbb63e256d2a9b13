"""PostgreSQL as the registry's database: one server, several, and a database that goes away."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest
from manyhats.errors import ConfigurationError, Conflict, NotFound, NotReady
from manyhats.registry.records import Target, TaskSettings
from manyhats.registry.registry import Registry
from manyhats.registry.stores.choose import metadata_store

from tests.postgres import Postgres
from tests.registry.helpers import blobs, inspect, upload
from tests.waiting import wait_until

Join = Callable[..., Registry]


@pytest.fixture
def join(tmp_path: Path, database_url: str) -> Iterator[Join]:
    """Opens registries on one database, each with a store of its own and all with the same blobs."""
    left: list[Registry] = []
    shared = tmp_path / "blobs"
    shared.mkdir()

    def open_one(name: str, url: str = database_url, migrate: bool = False) -> Registry:
        own = tmp_path / name / ".manyhats"
        own.mkdir(parents=True, exist_ok=True)
        if not (own / "blobs").is_symlink():
            (own / "blobs").symlink_to(shared)
        database = metadata_store(url, own, migrate=migrate)
        registry = Registry(tmp_path / name, inspect, database=database)
        registry.open()
        left.append(registry)
        return registry

    yield open_one
    for registry in left:
        registry.close()


def test_one_server_keeps_everything(join: Join, tmp_path: Path) -> None:
    one = join("one")
    upload(one, "spam", "a")
    upload(one, "spam", "b", settings=TaskSettings(priority=3))
    one.set_alias("spam", "canary", [Target(1, 30.0), Target(2, 70.0)])
    one.rollback("spam")
    upload(one, "gone", "c")
    one.delete_task("gone")
    with pytest.raises(Conflict):
        one.delete_version("spam", 1)
    before = one.task("spam")
    one.close()
    again = join("one")
    assert again.task("spam") == before
    assert again.resolve("spam").number == 1
    assert [entry.action for entry in again.audit.page(10, None)[0]][:2] == ["delete_task", "upload"]
    assert blobs(tmp_path / "one") == {version.sha256 for version in before.versions}


def test_servers_see_each_other_s_changes(join: Join) -> None:
    one, two = join("one"), join("two")
    told: list[tuple[str, str]] = []
    two.subscribe(lambda event, version, task: told.append((event, version.ref if version else task)))
    upload(one, "spam", "a")
    wait_until(lambda: two.find("spam"), "the upload is seen")
    assert two.resolve("spam").sha256 == one.resolve("spam").sha256
    wait_until(lambda: ("activated", "spam@1") in told, "the listeners are told")
    upload(two, "spam", "b")
    assert two.resolve("spam").number == 2
    wait_until(lambda: one.resolve("spam").number == 2, "an alias's change is seen")
    one.rollback("spam")
    wait_until(lambda: two.resolve("spam").number == 1, "a rollback is seen")
    one.put_settings("spam", {"priority": 7})
    wait_until(lambda: two.task("spam").settings.priority == 7, "settings are seen")
    wait_until(lambda: ("changed", "spam") in told, "the listeners are told of settings")
    one.delete_version("spam", 2)
    wait_until(lambda: len(two.task("spam").versions) == 1, "a version's deletion is seen")
    one.delete_task("spam")
    wait_until(lambda: two.find("spam") is None, "a task's deletion is seen")
    wait_until(lambda: ("deleted", "spam@1") in told, "the listeners are told of the deletion")
    assert two.contents() == set()
    assert two._database.state.followed == 5  # not its own


def test_a_write_knows_what_was_written_before_it(join: Join) -> None:
    """Without waiting: each begins from what the other has just committed."""
    one, two = join("one"), join("two")
    for number in range(10):
        assert upload(one, "spam", f"one {number}").number == 2 * number + 1
        assert upload(two, "spam", f"two {number}").number == 2 * number + 2
    one.delete_task("spam")
    with pytest.raises(NotFound):
        two.rollback("spam")
    assert upload(two, "spam", "new").number == 1
    assert upload(one, "other", "x").number == 1
    assert [v.sha256 for v in one.task("spam").versions] == [two.resolve("spam").sha256]


def test_a_database_that_went_away_comes_back(join: Join, postgres: Postgres) -> None:
    one, two = join("one"), join("two")
    upload(one, "spam", "a")
    wait_until(lambda: two.find("spam"), "the upload is seen")
    postgres.stop()
    try:
        for change in (
            lambda: upload(one, "spam", "b"),
            lambda: one.rollback("spam"),
            lambda: one.put_settings("spam", {"priority": 1}),
            lambda: one.delete_task("spam"),
            lambda: one.audit.page(10, None),
        ):
            with pytest.raises(NotReady, match="database"):
                change()
        assert one.resolve("spam").number == two.resolve("spam").number == 1
        wait_until(lambda: one._database.state.problem and two._database.state.problem, "it is noticed")
    finally:
        postgres.start()
    wait_until(lambda: not one._database.state.problem, "it is back")
    upload(one, "spam", "b")
    wait_until(lambda: two.resolve("spam").number == 2, "what was changed since is seen")


def test_what_was_missed_is_brought_in(
    join: Join, postgres: Postgres, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connections of one server are cut again and again while the other writes, also more than is kept."""
    from manyhats.registry.stores import postgresql

    monkeypatch.setattr(postgresql, "KEPT", 2)
    one, two = join("one"), join("two")
    for number in range(6):
        with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'manyhats'"
            )
        wait_until(partial(_written, partial(upload, one, f"task-{number % 5}", f"a {number}")), "it is written")
    wait_until(lambda: {t.name: t for t in two.all()} == {t.name: t for t in one.all()}, "all is seen")
    assert one.count == 5


def _written(write: Callable[[], object]) -> bool:
    try:
        write()
    except NotReady:
        return False
    return True


def test_a_database_that_hangs_is_given_up(
    join: Join, postgres: Postgres, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from manyhats.registry.stores import postgresql_connection

    monkeypatch.setattr(postgresql_connection.PatientConnection, "patience", 0.5)
    one = join("one", f"{database_url}?connect_timeout=2")
    upload(one, "spam", "a")
    postgres.send(signal.SIGSTOP)
    try:
        with pytest.raises(NotReady):
            one.put_settings("spam", {"priority": 1})
        assert one.resolve("spam").number == 1
    finally:
        postgres.send(signal.SIGCONT)
    wait_until(lambda: _written(lambda: one.put_settings("spam", {"priority": 2})), "it is written")


def test_an_empty_database_beside_adapters_is_refused(join: Join, postgres: Postgres) -> None:
    one = join("one")
    upload(one, "spam", "a")
    one.close()
    with pytest.raises(ConfigurationError, match="is empty"):
        join("one", postgres.make())


def test_a_database_that_is_not_there_is_named(join: Join, postgres: Postgres) -> None:
    with pytest.raises(ConfigurationError, match=r"127\.0\.0\.1:1/none cannot be used") as caught:
        join("one", "postgresql://me:secret@127.0.0.1:1/none")
    assert "secret" not in caught.value.message


def test_a_task_that_was_made_anew_is_another(join: Join) -> None:
    """With the same content under the same number, and seen at once: the files count as needed once."""
    one, two = join("one"), join("two")
    upload(one, "spam", "a")
    wait_until(lambda: two.find("spam"), "the upload is seen")
    with two._database.lock:  # until all of it is there
        one.delete_task("spam")
        upload(one, "spam", "a")
        upload(one, "spam", "b")
    wait_until(lambda: two.task("spam") == one.task("spam"), "it is seen")
    assert two.contents() == one.contents()
    pinned = two.pin("spam@1")
    two.unpin(pinned)
    two.delete_task("spam")
    wait_until(lambda: one.find("spam") is None, "the deletion is seen")
    assert one.contents() == two.contents() == set()
