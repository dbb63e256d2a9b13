"""The Dockerfile, and how `make image-check` runs what it makes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from manyhats.settings import Settings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
LAST = TEXT.rpartition("\nFROM ")[2]


def test_hadolint_finds_no_fault():
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint is not None
    done = subprocess.run(
        [hadolint, "--failure-threshold", "style", str(ROOT / "Dockerfile")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")
    # What is let pass is let pass for a line, with a reason above it.
    assert TEXT.count("hadolint ignore=") == 1


def test_the_last_stage_compiles_nothing_and_runs_without_rights():
    assert "apt-get" not in LAST
    assert "gcc" not in LAST
    assert "/opt/manyhats/bin/pip install --no-cache-dir --no-index --no-deps /tmp/dist/*.whl" in LAST
    assert re.search(r"^USER 10001:10001$", LAST, re.MULTILINE)
    assert "ALLOW_UNAUTHENTICATED" not in LAST
    given = set(re.findall(r"\b(MANYHATS_\w+)=", LAST))
    assert given <= {f"MANYHATS_{name.upper()}" for name in Settings.model_fields}
    assert len(re.findall(r"^HEALTHCHECK ", LAST, re.MULTILINE)) == 1


def test_every_version_is_locked():
    for line in re.findall(r"^.*pip (?:install|wheel) .*$", TEXT.replace("\\\n", " "), re.MULTILINE):
        for command in re.findall(r"pip (?:install|wheel) [^;&]*", line):
            assert (
                "-c /tmp/requirements/" in command
                or "-constraint /tmp/requirements/" in command
                or ("--no-index --no-deps" in command)
            ), command


def test_the_extras_are_there():
    extras = re.search(r'^ARG EXTRAS="(.*)"$', TEXT, re.MULTILINE)
    assert extras is not None
    assert set(extras[1].split()) == {"jwt", "otel", "postgres", "s3"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(extras[1].split()) <= set(project["optional-dependencies"])


@pytest.mark.parametrize("user", ["10001:10001", "0:0"])
def test_it_is_run_with_a_read_only_root_and_no_rights(tmp_path: Path, user: str):
    image = {
        "User": user,
        "Entrypoint": ["manyhats"],
        "Cmd": ["serve"],
        "Env": ["A=b"],
        "WorkingDir": "/home/manyhats",
        "Volumes": {"/store": {}},
        "Healthcheck": {"Test": ["CMD", "python3", "-c", "..."]},
    }
    (tmp_path / "image.json").write_text(json.dumps({"Docker": {"config": image}}))
    words = [tmp_path / "bundle", tmp_path / "image.json", "/root", "/volume", "C=d"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "docker" / "bundle.py"), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    if user == "0:0":
        assert "the image's user is '0:0'" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "bundle" / "config.json").read_text())
    assert config["root"] == {"path": "/root", "readonly": True}
    process = config["process"]
    assert process["user"] == {"uid": 10001, "gid": 10001}
    assert not any(process["capabilities"].values())
    assert process["noNewPrivileges"]
    assert (process["args"], process["env"]) == (["manyhats", "serve"], ["A=b", "C=d"])
    writable = [one["destination"] for one in config["mounts"] if one["type"] in ("tmpfs", "bind")]
    assert set(writable) == {"/dev", "/dev/shm", "/tmp", "/store"}
    assert (tmp_path / "bundle" / "health").read_text() == "python3\0-c\0...\0"
