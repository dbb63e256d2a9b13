"""Which versions of Python and of the libraries that compute the answers Manyhats was tried with.

A packed pass stands on how transformers' models hand their attention over. With a version outside the range it may run
and give other answers, so such a version is refused before anything is loaded.
"""

from __future__ import annotations

import importlib
import sys
from importlib import metadata
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from manyhats.errors import UnsupportedVersion
from manyhats.messages import first_line

# As in pyproject.toml; a test compares them.
RANGES = {"torch": ">=2.11,<2.15", "transformers": ">=5.17,<6"}


def installed() -> dict[str, str]:
    """The version of each library of `RANGES` in this environment, by what is written down of it.

    Raises UnsupportedVersion where one is not installed, or twice in one folder.
    """
    found: dict[str, str] = {}
    for name, supported in RANGES.items():
        folders: dict[Path, set[str]] = {}
        for distribution in metadata.distributions(name=name):  # in the order in which an import looks
            folders.setdefault(Path(str(distribution.locate_file(""))).resolve(), set()).add(distribution.version)
        if not folders:
            raise UnsupportedVersion(f"{name} is not installed; {_install(name, supported)}")
        folder, versions = next(iter(folders.items()))
        if len(versions) > 1:
            both = " and ".join(sorted(versions))
            raise UnsupportedVersion(
                f"{name} is installed twice in {folder}, as {both}; remove both (pip uninstall {name}, until it says "
                f"that none is left), then {_install(name, supported)}"
            )
        (found[name],) = versions
    return found


def problem(versions: dict[str, str]) -> str | None:
    """What is wrong with these versions of the libraries, in one line; None where all are supported."""
    for name, supported in RANGES.items():
        if not SpecifierSet(supported).contains(versions[name]):
            return f"{name} {versions[name]} is not supported, only {supported}; {_install(name, supported)}"
    return None


def require() -> None:
    """Checks the environment and what an import really gives. Raises UnsupportedVersion in one line."""
    versions = installed()
    if wrong := problem(versions):
        raise UnsupportedVersion(wrong)
    for name, version in versions.items():
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            reason = first_line(error)
            raise UnsupportedVersion(f"{name} {version} cannot be imported: {reason}") from error
        # A build says more of itself than its record does: 2.11.0+cu130 and 2.11.0 are one.
        if Version(module.__version__).public != Version(version).public:
            raise UnsupportedVersion(
                f"two versions of {name} are mixed in this environment: {version} is installed, but "
                f"{module.__version__} is imported, from {Path(str(module.__file__)).parent}; make a new environment, "
                f"or remove one of them"
            )


def described() -> str:
    """The versions that count, in one line."""
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    versions |= {name: importlib.import_module(name).__version__ for name in RANGES}
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _install(name: str, supported: str) -> str:
    return f"run pip install '{name}{supported}'"
