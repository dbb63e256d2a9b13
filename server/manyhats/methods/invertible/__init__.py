"""Invertible adapters: a coupling layer over the embeddings (Pfeiffer et al. 2020, MAD-X, section 3.3).

    x = [x1, x2]        o1 = x1 + F(x2)        o2 = x2 + G(o1)        (NICE, Dinh et al. 2015)

The inverse belongs before a language-model head that is tied to the embeddings.
"""

from manyhats.methods.invertible.config import InvertibleConfig
from manyhats.methods.invertible.method import Invertible

__all__ = ["Invertible", "InvertibleConfig"]
