"""Which of the optional libraries are installed, by the extra of the package that asks for them."""

from __future__ import annotations

from importlib import metadata

from packaging.requirements import Requirement

_FOR_DEVELOPERS = frozenset({"clients", "dev", "release", "test"})


def extras() -> dict[str, str]:
    """By each extra: installed, or which libraries are not, or not in a version that is supported.

    Empty where the package itself is not installed, as for a server that runs from its sources.
    """
    try:
        package = metadata.metadata("manyhats")
    except metadata.PackageNotFoundError:
        return {}
    names = [name for name in package.get_all("Provides-Extra") or [] if name not in _FOR_DEVELOPERS]
    asked = [Requirement(line) for line in package.get_all("Requires-Dist") or []]
    return {name: _state([one for one in asked if _is_of(one, name)]) for name in sorted(names)}


def _is_of(one: Requirement, extra: str) -> bool:
    """Whether a requirement is one of an extra on this machine, and not required without it."""
    return one.marker is not None and one.marker.evaluate({"extra": extra}) and not one.marker.evaluate({"extra": ""})


def _state(requirements: list[Requirement]) -> str:
    missing = []
    for one in requirements:
        try:
            version = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            missing.append(f"{one.name} is not installed")
            continue
        if not one.specifier.contains(version, prereleases=True):
            missing.append(f"{one.name} is {version}, not {one.specifier}")
    return "; ".join(missing) or "installed"
