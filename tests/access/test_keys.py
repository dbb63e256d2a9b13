"""The keys file: hashes alone, written whole or not at all, and read with suspicion."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from manyhats.access.keys import KeyFile, split_key
from manyhats.errors import ConfigurationError, Conflict, InvalidRequest, NotFound


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "store" / ".manyhats" / "keys.json")


def test_a_key_is_shown_once_and_kept_as_a_hash(file: KeyFile) -> None:
    record, key = file.create("ci", scopes=["predict", "upload", "predict"], tenant="team", tasks=["team-*"])
    assert file.read() == (record,)
    assert record.scopes == ("predict", "upload")
    key_id, secret = split_key(key) or ("", "")
    assert key.startswith("mh_ci-")
    assert key_id == record.id
    assert len(secret) == 43
    content = file.path.read_text()
    assert secret not in content
    assert record.hash.startswith("scrypt:16384:8:1:")
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert record.may_be(secret)
    assert record.is_of(secret)
    assert not record.is_of(secret[:-1] + ("A" if secret[-1] != "A" else "B"))
    assert not record.is_of("")


def test_few_guesses_are_worth_a_hash(file: KeyFile) -> None:
    record, key = file.create("ci", scopes=["predict"])
    guesses = sum(record.may_be(f"{key}{i}") for i in range(20_000))
    assert guesses < 20  # of 65536 one is


@pytest.mark.parametrize(
    "text", ["", "mh_", "mh__", "mh_a_", "mh__b", "mh_ab", "sk-abc", "Bearer mh_a_b", "mh_a_" + "b" * 200, "MH_a_b"]
)
def test_what_is_no_key(text: str) -> None:
    assert split_key(text) is None


def test_a_secret_may_have_any_sign_of_its_alphabet() -> None:
    assert split_key("mh_ci-0a_x_y-z_") == ("ci-0a", "x_y-z_")


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("name", {"name": "Ci"}),
    ("name", {"name": ""}),
    ("name", {"name": "a_b"}),
    ("name", {"name": "a" * 49}),
    ("scope", {"scopes": []}),
    ("scope", {"scopes": ["read"]}),
    ("tenant", {"tenant": "a b"}),
    ("pattern", {"tasks": ["a/b"]}),
    ("patterns", {"tasks": ["x"] * 65}),
    ("namespace", {"namespace": "-a"}),
    ("weight", {"weight": 0.0}),
    ("weight", {"weight": float("nan")}),
    ("quota", {"requests": "100"}),
    ("quota", {"tokens": "0/minute"}),
    ("quota", {"tokens": "1/fortnight"}),
]


@pytest.mark.parametrize(("says", "given"), WRONG)
def test_wrong_values_are_refused_and_nothing_is_written(file: KeyFile, says: str, given: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=says):
        file.create(**{"name": "ci", "scopes": ["predict"], **given})
    assert not file.path.exists()


def test_names_are_of_one_key_until_it_is_revoked(file: KeyFile) -> None:
    first, _ = file.create("ci", scopes=["predict"])
    with pytest.raises(Conflict, match="'ci' already"):
        file.create("ci", scopes=["predict"])
    assert file.revoke("ci").id == first.id
    second, _ = file.create("ci", scopes=["predict"])
    assert [(one.id, one.state) for one in file.read()] == [(first.id, "revoked"), (second.id, "active")]
    assert file.revoke(second.id).id == second.id
    with pytest.raises(NotFound, match="no key 'ci' in use; there are: none"):
        file.revoke("ci")


def test_states(file: KeyFile) -> None:
    assert file.create("a", scopes=["predict"], expires=time.time() + 3600)[0].state == "active"
    assert file.create("b", scopes=["predict"], expires=time.time() - 1)[0].state == "expired"


def test_the_mark_changes_with_the_file(file: KeyFile) -> None:
    marks = [file.mark()]
    for name in ("a", "b"):
        file.create(name, scopes=["predict"])
        marks.append(file.mark())
    file.revoke("a")
    marks.append(file.mark())
    assert marks[0] is None
    assert len(set(marks)) == 4
    assert file.mark() == marks[-1]


DAMAGED = [
    (b"", "damaged"),
    (b"{", "damaged"),
    (b"[]", "damaged"),
    (b'{"format": 2}', "newer Manyhats"),
    (b'{"keys": [{"id": "a"}]}', "keys.0"),
    (b'{"more": 1}', "more"),
    (b" " * ((16 << 20) + 1), "larger"),
]


@pytest.mark.parametrize(("content", "says"), DAMAGED)
def test_a_damaged_file_is_an_error_and_stays_as_it_is(file: KeyFile, content: bytes, says: str) -> None:
    file.path.parent.mkdir(parents=True)
    file.path.write_bytes(content)
    for work in (file.read, lambda: file.create("ci", scopes=["predict"]), lambda: file.revoke("ci")):
        with pytest.raises(ConfigurationError, match=says):
            work()
    assert file.path.read_bytes() == content


def test_what_somebody_wrote_by_hand_is_checked(file: KeyFile) -> None:
    file.create("ci", scopes=["predict"])
    content = json.loads(file.path.read_text())
    for change, says in (
        ({"scopes": ["root"]}, "'root' is no scope"),
        ({"tasks": ["("]}, "no pattern"),
        # What scrypt does not take, and what would take it long, at the first request with the key.
        *(({"hash": f"scrypt:{given}:aGFzaA"}, "is no hash of a key") for given in ("3:1:1", "65536:1:1", "2:1:99")),
        ({"hash": "md5:aGFzaA"}, "is no hash of a key"),
    ):
        changed = content | {"keys": [content["keys"][0] | change]}
        file.path.write_text(json.dumps(changed))
        with pytest.raises(ConfigurationError, match=says):
            file.read()


def test_a_write_that_fails_leaves_the_file_and_nothing_beside_it(
    file: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.create("ci", scopes=["predict"])
    before = file.path.read_bytes()

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(ConfigurationError, match="No space left"):
        file.create("other", scopes=["predict"])
    assert file.path.read_bytes() == before
    assert {path.name for path in file.path.parent.iterdir()} <= {"keys.json", "keys.json.lock"}


def test_commands_at_once_lose_no_key(file: KeyFile) -> None:
    names = [f"k{i}" for i in range(8)]
    threads = [threading.Thread(target=file.create, args=(name,), kwargs={"scopes": ["predict"]}) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.name for one in file.read()) == names
