"""Sparse fine-tuning: a few changed values of the backbone's parameters (Radiya-Dixit & Wang 2020; diff pruning,
Guo et al. 2021: theta = theta_0 + z * w with most of z zero).

In a slot a linear layer's differences stay sparse where the kernels add them so, else its changed weight is dense
there; of an embedding only the changed rows are kept.
"""

from manyhats.methods.sparse.config import SparseConfig
from manyhats.methods.sparse.method import Sparse

__all__ = ["Sparse", "SparseConfig"]
