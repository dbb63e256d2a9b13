"""The tensors of a file, which readers claim by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from manyhats.errors import InvalidRequest

SiteTensors = dict[str, dict[str, Tensor]]  # tensors by site, then by name


class UnclaimedTensors:
    """A file's tensors, each of which is claimed once; those left at the end are unexpected."""

    def __init__(self, tensors: dict[str, Tensor], file: str, warnings: Sequence[str] = ()) -> None:
        self._tensors = dict(tensors)
        self._file = file
        self.warnings = tuple(warnings)  # about the names
        self.claimed = 0

    def claim_optional(self, name: str) -> Tensor | None:
        """Claims the tensor of that name; None where there is none."""
        tensor = self._tensors.pop(name, None)
        self.claimed += tensor is not None
        return tensor

    def claim(self, name: str) -> Tensor:
        """Claims the tensor of that name, which must exist."""
        self.claimed += 1
        return self._tensors.pop(name)

    def names(self) -> list[str]:
        """The names of unclaimed tensors."""
        return list(self._tensors)

    def peek(self, name: str) -> Tensor | None:
        """The tensor of that name, without claiming it; None where it is missing or already claimed."""
        return self._tensors.get(name)

    def ignore(self, name: str) -> None:
        """Drops a tensor that is known to change nothing."""
        self._tensors.pop(name, None)

    def check_all_claimed(self) -> None:
        """Raises InvalidRequest where a tensor is unclaimed."""
        if self._tensors:
            first = sorted(self._tensors)[0]
            raise InvalidRequest(
                f"{len(self._tensors)} tensors of {self._file} are not understood, the first is '{first}'",
                param=first,
            )


def claim_leaves(unclaimed: UnclaimedTensors, place_of: Callable[[str], tuple[str, str] | None]) -> SiteTensors:
    """Claims every tensor for whose name `place_of` returns a site and a name there.

    Raises what `place_of` raises, and InvalidRequest where two tensors get one name.
    """
    sites: SiteTensors = {}
    for name in unclaimed.names():
        found = place_of(name)
        if found is None:
            continue
        site, leaf = found
        leaves = sites.setdefault(site, {})
        if leaf in leaves:
            raise InvalidRequest(f"two tensors are the {leaf} of '{site}'", param=name)
        leaves[leaf] = unclaimed.claim(name)
    return sites
