"""Bounds what torch and oneDNN keep of the products of matrices that they have compiled.

Both compile a product for each number of rows, and keep 1024. Passes have any number of rows, so that few are found
again, and 1024 of them take 600 to 900 MB; with 128 a round of MiniLM's products over random numbers of rows takes no
longer, in float32 a tenth less.
"""

from __future__ import annotations

import os

KEPT = 128  # of each: those of a decoder's steps, whose rows are alike, fit in
_VARIABLES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")  # of oneDNN, and of torch's bindings to it


def bound_product_caches() -> None:
    """Has the libraries keep few, before the first product of the process; what the environment says holds."""
    for variable in _VARIABLES:
        os.environ.setdefault(variable, str(KEPT))
