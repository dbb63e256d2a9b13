"""What replicas share of the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from manyhats.scale.places import Place
from manyhats.scale.sharing import own_settings, shares, version_of
from manyhats.settings import Settings


def test_a_replica_has_its_own_folder_and_the_keys_of_all(tmp_path: Path) -> None:
    place = Place(tmp_path)
    own = own_settings(Settings(backbone="x", store=tmp_path), place)
    assert own.store == tmp_path / "replicas" / "0"
    assert own.keys_file == tmp_path / ".manyhats" / "keys.json"
    given = own_settings(Settings(backbone="x", store=tmp_path, keys_file=tmp_path / "keys"), place)
    assert given.keys_file == tmp_path / "keys"


def test_a_database_is_what_replicas_share() -> None:
    assert not shares(Settings(backbone="x"))
    assert shares(Settings(backbone="x", database_url="postgresql://somebody@localhost/tasks"))


def test_what_has_changed_has_another_version() -> None:
    def version(**settings: Any) -> str:
        return version_of(Settings(**settings).model_dump())

    first = version(backbone="x", api_keys=("one",))
    assert first == version(api_keys=("one",), backbone="x")
    assert first != version(backbone="y", api_keys=("one",))
    assert first != version(backbone="x", api_keys=("two",))  # a secret is not hidden here
