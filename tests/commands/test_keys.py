"""`manyhats keys`: makes keys, lists them, takes them back."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from manyhats.access.keys import KeyFile, split_key

from tests.commands.asking import refused, run


def test_a_key_with_everything(tmp_path: Path) -> None:
    options = ["--scopes", "predict, upload", "--tenant", "team", "--tasks", "team-*,base", "--namespace", "team-"]
    options += ["--expires", "90d", "--requests", "100/minute", "--tokens", "100000/minute", "--weight", "2"]
    out, err = run("keys", "create", "ci", *options, "--store", tmp_path)
    key = out.strip()
    assert "only time" in err
    (record,) = KeyFile(tmp_path / ".manyhats" / "keys.json").read()
    assert record.is_of((split_key(key) or ("", ""))[1])
    assert record.scopes == ("predict", "upload")
    assert record.tasks == ("team-*", "base")
    assert (record.tenant, record.namespace, record.weight) == ("team", "team-", 2)
    assert (record.requests, record.tokens) == ("100/minute", "100000/minute")
    assert record.expires is not None
    assert abs(record.expires - record.created - 90 * 86400) < 60
    lines = run("keys", "list", "--store", tmp_path)[0].splitlines()
    assert lines[0].split()[:2] == ["name", "state"]
    assert lines[1].split()[:4] == ["ci", "active", "team", "predict,upload"]
    assert key not in "".join(lines)


def test_as_json(tmp_path: Path) -> None:
    made = json.loads(run("keys", "create", "ci", "--json", "--keys-file", tmp_path / "k.json")[0])
    assert made["key"].startswith("mh_ci-")
    assert made["scopes"] == ["predict"]
    (listed,) = json.loads(run("keys", "list", "--json", MANYHATS_KEYS_FILE=str(tmp_path / "k.json"))[0])
    assert listed == {name: value for name, value in made.items() if name != "key"}
    assert not {"hash", "salt", "check"} & listed.keys()
    gone = json.loads(run("keys", "revoke", "ci", "--json", "--keys-file", tmp_path / "k.json")[0])
    assert gone["state"] == "revoked"
    assert gone["revoked"] <= time.time()


def test_revoking(tmp_path: Path) -> None:
    run("keys", "create", "ci", "--store", tmp_path)
    assert run("keys", "revoke", "ci", MANYHATS_STORE=str(tmp_path))[0] == "revoked ci\n"
    assert "revoked" in run("keys", "list", "--store", tmp_path)[0]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["create", "Ci"], "'Ci' is no name of a key"),
        (["create", "ci", "--scopes", "root"], "'root' is no scope; there are predict, upload, admin, metrics"),
        (["create", "ci", "--expires", "soon"], "--expires takes a number and m, h, d or w"),
        (["create", "ci", "--expires", "0d"], "--expires"),
        (["create", "ci", "--requests", "many"], "write 100/minute"),
        (["create", "ci", "--weight", "0"], "weight"),
        (["revoke", "nobody"], "no key 'nobody' in use"),
    ],
)
def test_wrong_words(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in refused(monkeypatch, capsys, "keys", *words, "--store", tmp_path, code=2)
    assert not (tmp_path / ".manyhats" / "keys.json").exists()
