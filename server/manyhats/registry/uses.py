"""Which versions need each stored content: found at once, however many tasks there are."""

from __future__ import annotations

from manyhats.registry.records import Version

Named = tuple[str, int]  # a task and a version's number


class ContentUses:
    """The versions that need each content, by its sha256. For one thread at a time."""

    def __init__(self) -> None:
        self._versions: dict[str, dict[Named, None]] = {}

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._versions

    def contents(self) -> set[str]:
        """Everything that a version needs."""
        return set(self._versions)

    def of(self, sha256: str) -> list[Named]:
        """The versions that need a content, in the order in which they came."""
        return list(self._versions.get(sha256, ()))

    def add(self, version: Version) -> None:
        """A version is there."""
        for sha in contents_of(version):
            self._versions.setdefault(sha, {})[version.task, version.number] = None

    def remove(self, version: Version) -> list[str]:
        """A version is gone. The contents that no version needs any more."""
        unneeded = []
        for sha in contents_of(version):
            versions = self._versions[sha]
            del versions[version.task, version.number]
            if not versions:
                del self._versions[sha]
                unneeded.append(sha)
        return unneeded


def contents_of(version: Version) -> set[str]:
    """The contents that a version needs: its own, and those that it is made of."""
    return {version.sha256, *version.info.references}
