"""Bounds what torch and oneDNN keep of the products of matrices that they have compiled.

Both compile a product for each number of rows, and keep 1024, which take 600 to 900 MB. Passes are filled up to one of
few numbers of rows (`backbone.filler`), so that 128 are enough; even over random numbers of rows a round of MiniLM's
products takes no longer with 128, in float32 a tenth less.
"""

from __future__ import annotations

import os

KEPT = 128  # of each: those of a decoder's steps, whose rows are alike, fit in
_VARIABLES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")  # of oneDNN, and of torch's bindings to it


def bound_product_caches() -> None:
    """Has the libraries keep few, before the first product of the process; what the environment says holds."""
    for variable in _VARIABLES:
        os.environ.setdefault(variable, str(KEPT))
