"""The tensors of a file while readers look for those that they know."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from manyhats.errors import InvalidRequest

SiteTensors = dict[str, dict[str, Tensor]]  # leaves, by site


class UnclaimedTensors:
    """A file's tensors, each to be claimed once; what is left at the end did not match anything."""

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
        """Claims the tensor of a name that is among `names`."""
        self.claimed += 1
        return self._tensors.pop(name)

    def names(self) -> list[str]:
        """What has not been claimed."""
        return list(self._tensors)

    def peek(self, name: str) -> Tensor | None:
        """The tensor of that name, which is not claimed by this; None where it is not there, or was claimed."""
        return self._tensors.get(name)

    def ignore(self, name: str) -> None:
        """Leaves out a tensor that is known to have no meaning."""
        self._tensors.pop(name, None)

    def check_all_claimed(self) -> None:
        """Raises InvalidRequest where a tensor is left over."""
        if self._tensors:
            first = sorted(self._tensors)[0]
            raise InvalidRequest(
                f"{len(self._tensors)} tensors of {self._file} are not understood, the first is '{first}'",
                param=first,
            )


def claim_leaves(unclaimed: UnclaimedTensors, place_of: Callable[[str], tuple[str, str] | None]) -> SiteTensors:
    """Claims every tensor that `place_of` knows by its name: the leaves by site, and by the leaf's name.

    Raises what `place_of` raises, and InvalidRequest where two tensors have one place.
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
