"""What a sparse difference is besides its tensors."""

from __future__ import annotations

from typing import Final, Literal

from manyhats.methods.component import MethodConfig

NAME: Final = "sparse"


class SparseConfig(MethodConfig):
    """`mode`: the values are added to the backbone's, or stand in their place."""

    mode: Literal["add", "replace"] = "add"
