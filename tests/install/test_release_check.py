"""What `make release-check` looks for in the archives; the installs and the demo are its own run."""

import io
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from scripts import release_check

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A client with two modules, in the folders of the real one."""
    folder = tmp_path / "source/clients/python"
    (folder / "src/manyhats_client").mkdir(parents=True)
    for name in ("__init__.py", "py.typed"):
        (folder / "src/manyhats_client" / name).touch()
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "source")
    return tmp_path / "source"


def archives(folder: Path, add: str = "", leave: str = "", version: str = "1.0") -> tuple[Path, Path]:
    """A source archive and a wheel of that client, right but for one file."""
    top = f"manyhats_client-{version}"
    entries = ["LICENSE", "README.md", "pyproject.toml", "PKG-INFO", "setup.cfg"]
    entries += ["src/manyhats_client/__init__.py", "src/manyhats_client/py.typed", add]
    archive = folder / f"{top}.tar.gz"
    with tarfile.open(archive, "w:gz") as out:
        for entry in entries:
            if entry and entry != leave:
                out.addfile(tarfile.TarInfo(f"{top}/{entry}"), io.BytesIO())
    wheel = folder / f"{top}-py3-none-any.whl"
    entries = ["manyhats_client/__init__.py", "manyhats_client/py.typed", f"{top}.dist-info/licenses/LICENSE", add]
    with zipfile.ZipFile(wheel, "w") as out:
        for entry in entries:
            if entry and entry != leave:
                out.writestr(entry, b"")
    return archive, wheel


def test_archives_with_the_packages_files_pass(source, tmp_path):
    release_check.check_contents("manyhats_client", *archives(tmp_path), source)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"leave": "manyhats_client/py.typed"}, r"whl: not the package's files: \['manyhats_client/py.typed'\]"),
        ({"add": "manyhats_client/junk.pyc"}, r"whl: not the package's files: \['manyhats_client/junk.pyc'\]"),
        ({"leave": "manyhats_client-1.0.dist-info/licenses/LICENSE"}, "whl: no LICENSE"),
        ({"leave": "README.md"}, r"tar.gz: not the package's files: \['README.md'\]"),
        ({"leave": "src/manyhats_client/__init__.py"}, r"tar.gz: not .* \['src/manyhats_client/__init__.py'\]"),
    ],
)
def test_a_file_too_few_or_too_many_is_told(source, tmp_path, change, told):
    with pytest.raises(release_check.Failed, match=told):
        release_check.check_contents("manyhats_client", *archives(tmp_path, **change), source)


def test_two_versions_are_told(source, tmp_path):
    built = {"manyhats": archives(tmp_path), "manyhats_client": archives(tmp_path, version="1.1")}
    with pytest.raises(release_check.Failed, match=r"\['1.0', '1.1'\]; they are released together"):
        release_check.check_versions(source, built)


def test_nothing_of_this_checkout_is_in_the_environment_of_the_demo(monkeypatch):
    for name in ("PYTHONPATH", "MANYHATS_STORE", "VIRTUAL_ENV"):
        monkeypatch.setenv(name, str(ROOT))
    assert not {"PYTHONPATH", "MANYHATS_STORE", "VIRTUAL_ENV"} & release_check.clean_environment().keys()
