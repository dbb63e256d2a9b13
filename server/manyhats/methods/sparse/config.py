"""The config of a sparse difference."""

from __future__ import annotations

from typing import Final, Literal

from manyhats.methods.component import MethodConfig

NAME: Final = "sparse"


class SparseConfig(MethodConfig):
    """`mode`: the values are added to the backbone's, or replace them."""

    mode: Literal["add", "replace"] = "add"
