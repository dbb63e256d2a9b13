"""Whose key it is: compared once, remembered, and refused cheaply."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from manyhats.access import control as module
from manyhats.access.control import AccessControl, asks_for_keys
from manyhats.access.identity import Identity
from manyhats.access.keys import KeyFile, KeyRecord
from manyhats.access.scopes import ALL_SCOPES
from manyhats.errors import AuthenticationRequired, ConfigurationError, Overloaded
from manyhats.settings import Settings


class Counted:
    """How often a secret was compared with a hash."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        compare = KeyRecord.is_of

        def counted(record: KeyRecord, secret: str) -> bool:
            self.times += 1
            return compare(record, secret)

        monkeypatch.setattr(KeyRecord, "is_of", counted)


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys.json")


def control(file: KeyFile, **settings: Any) -> AccessControl:
    return AccessControl(Settings(keys_file=file.path, **settings))


def header(key: str) -> bytes:
    return f"Bearer {key}".encode()


def identify(access: AccessControl, *headers: bytes | None) -> list[Any]:
    """Who sends each header, or why they are refused; all at once."""

    async def main() -> list[Any]:
        return await asyncio.gather(*(access.identify(one) for one in headers), return_exceptions=True)

    return asyncio.run(main())


def test_a_key_is_compared_once(file: KeyFile, compared: Counted) -> None:
    key = file.create("ci", scopes=["predict"], tenant="t", weight=2)[1]
    access = control(file)
    found = identify(access, *[header(key)] * 20)
    assert compared.times == 1
    assert {(one.caller.tenant, one.caller.key, one.caller.weight, one.scopes) for one in found} == {
        ("t", "ci", 2, frozenset({"predict"}))
    }
    identify(access, header(key))
    assert compared.times == 1


def test_wrong_keys_are_refused_without_a_hash(file: KeyFile, compared: Counted) -> None:
    record, key = file.create("ci", scopes=["predict"])
    access = control(file)
    wrong = [f"{key}{i}" for i in range(100) if not record.may_be(f"{key.split('_', 2)[2]}{i}")]
    found = identify(access, *(header(one) for one in [*wrong, "mh_nobody_x", "x", "mh_"]), b"Basic eA==", b"", b"\xff")
    assert all(isinstance(one, AuthenticationRequired) for one in found)
    assert compared.times == 0
    assert access._state.known == {}


def test_those_that_are_worth_a_hash_are_limited(
    file: KeyFile, compared: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = file.create("ci", scopes=["predict"])[1]
    other = file.create("other", scopes=["predict"])[1]
    monkeypatch.setattr(KeyRecord, "may_be", lambda *_: True)
    access = control(file)
    found = [identify(access, header(f"{key}{i}"))[0] for i in range(14)]
    assert [type(one) for one in found] == [AuthenticationRequired] * 10 + [Overloaded] * 4
    assert found[-1].retry_after == 60
    assert compared.times == 10
    assert isinstance(identify(access, header(other))[0], Identity)


def test_not_many_wait_for_a_comparison(file: KeyFile, monkeypatch: pytest.MonkeyPatch) -> None:
    key = file.create("ci", scopes=["predict"])[1]
    monkeypatch.setattr(KeyRecord, "may_be", lambda *_: True)
    monkeypatch.setattr(KeyRecord, "is_of", lambda *_: False)
    found = identify(control(file), *(header(f"{key}{i}") for i in range(100)))
    assert sum(isinstance(one, Overloaded) for one in found) >= 100 - module._MAX_WAITING
    assert not any(isinstance(one, Identity) for one in found)


def test_few_are_remembered(file: KeyFile, monkeypatch: pytest.MonkeyPatch, compared: Counted) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 2)
    keys = [header(file.create(f"k{i}", scopes=["predict"])[1]) for i in range(3)]
    access = control(file)
    for key in (keys[0], keys[1], keys[0], keys[2], keys[0]):  # the second is the one not used for longest
        identify(access, key)
    assert compared.times == 3
    assert len(access._state.known) == 2
    identify(access, keys[1])
    assert compared.times == 4


def test_reloading_keeps_what_was_compared(file: KeyFile, compared: Counted) -> None:
    keys = [header(file.create(name, scopes=["predict"])[1]) for name in ("stays", "goes")]
    access = control(file, admin_keys="root")
    told = []
    access.on_change = lambda action, record: told.append((action, record.name))
    identify(access, *keys, header("root"))
    assert not access.reload()
    access.reload_if_changed()
    assert told == []
    file.revoke("goes")
    file.create("new", scopes=["admin"])
    access.reload_if_changed()
    assert told == [("key_revoke", "goes"), ("key_create", "new")]
    stays, goes, root = identify(access, *keys, header("root"))
    assert stays.caller.key == "stays"
    assert isinstance(goes, AuthenticationRequired)
    assert "revoked" in goes.message
    assert root.scopes == ALL_SCOPES
    assert compared.times == 2


def test_a_damaged_file_changes_nothing_and_is_told_once(file: KeyFile, caplog: pytest.LogCaptureFixture) -> None:
    key = header(file.create("ci", scopes=["predict"])[1])
    access = control(file)
    content = file.path.read_bytes()
    file.path.write_bytes(b"{")
    for _ in range(3):
        access.reload_if_changed()
    assert isinstance(identify(access, key)[0], Identity)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    with pytest.raises(ConfigurationError, match="damaged"):
        control(file)
    file.path.write_bytes(content)
    access.reload_if_changed()
    assert isinstance(identify(access, key)[0], Identity)


def test_a_file_that_goes_does_not_open_the_server(file: KeyFile) -> None:
    key = header(file.create("ci", scopes=["predict"])[1])
    access = control(file)
    file.path.unlink()
    access.reload_if_changed()
    assert all(isinstance(one, AuthenticationRequired) for one in identify(access, None, key))


def test_an_expired_key_is_refused_when_its_time_comes(file: KeyFile, monkeypatch: pytest.MonkeyPatch) -> None:
    key = header(file.create("ci", scopes=["predict"], expires=time.time() + 1000)[1])
    access = control(file)
    assert isinstance(identify(access, key)[0], Identity)
    later = time.time() + 1001
    monkeypatch.setattr(time, "time", lambda: later)
    assert "expired" in identify(access, key)[0].message


def test_the_settings_keys(file: KeyFile) -> None:
    """What they are for with and without each other, and beside a keys file."""

    def scopes(access: AccessControl, key: str | None) -> Any:
        found = identify(access, None if key is None else header(key))[0]
        return set(found.scopes) if isinstance(found, Identity) else None

    asking = {"predict", "metrics"}
    for settings, nobody, api, admin in (
        ({}, ALL_SCOPES, ALL_SCOPES, ALL_SCOPES),
        ({"api_keys": "ask"}, None, ALL_SCOPES, None),
        ({"admin_keys": "root"}, asking, asking, ALL_SCOPES),
        ({"api_keys": "ask", "admin_keys": "root"}, None, asking, ALL_SCOPES),
    ):
        access = control(file, **settings)
        assert (scopes(access, None), scopes(access, "ask"), scopes(access, "root")) == (nobody, api, admin), settings
    file.create("one", scopes=["predict"])
    for settings, api, admin in (
        ({}, None, None),
        ({"api_keys": "ask"}, asking, None),
        ({"api_keys": "ask", "admin_keys": "root"}, asking, ALL_SCOPES),
    ):
        access = control(file, **settings)
        assert (scopes(access, None), scopes(access, "ask"), scopes(access, "root")) == (None, api, admin), settings


def test_settings_that_ask_for_keys(file: KeyFile, tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert not asks_for_keys(Settings(store=store))
    assert not asks_for_keys(Settings(store=store, admin_keys="x"))
    assert asks_for_keys(Settings(store=store, api_keys="x"))
    assert asks_for_keys(Settings(store=store, jwt_issuer="x"))
    KeyFile(store / ".manyhats" / "keys.json").create("a", scopes=["predict"])
    assert asks_for_keys(Settings(store=store))
