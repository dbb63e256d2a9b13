"""Vectors of texts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def unit_vectors(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors made of length one; zero vectors stay. vectors: (..., width)."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: NDArray[np.float32] = vectors / np.maximum(norms, 1e-12)
    return unit
