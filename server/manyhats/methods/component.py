"""The weights of one method as in the file, in host memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

StateDict = Mapping[str, Tensor]  # a method's tensors at one site, by the method's names for them


class MethodConfig(BaseModel):
    """What a method needs besides its tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


C = TypeVar("C", bound=MethodConfig)
C_co = TypeVar("C_co", bound=MethodConfig, covariant=True)


@dataclass(frozen=True)
class Component(Generic[C_co]):
    """The weights of one method, in host memory. `tensors`: by site, then by the method's names for them.

    `label`: the name in answers, where it is not the method's.
    """

    method: str
    config: C_co
    tensors: Mapping[str, StateDict]
    label: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return size_of(self.tensors.values())

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Component[C_co]:
        """The same on a device, in a dtype where one is given."""
        moved = {site: {name: t.to(device, dtype) for name, t in own.items()} for site, own in self.tensors.items()}
        return replace(self, tensors=moved)

    @property
    def gated(self) -> bool:
        """Whether its output is scaled by a gate, which reads the whole sequence; also where a member's is."""
        return any(leaf.endswith("gate.weight") for leaves in self.tensors.values() for leaf in leaves)


def size_of(sites: Iterable[StateDict]) -> int:
    """Bytes of all tensors."""
    return sum(tensor.nbytes for leaves in sites for tensor in leaves.values())
