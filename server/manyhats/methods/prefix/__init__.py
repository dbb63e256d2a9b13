"""Prefix-tuning: learned keys and values before every sequence's own, in each layer (Li & Liang 2021, section 4).

Nothing is inserted into the residual stream: the prefix is seen by attention alone. The prefix is stored once for an
adapter, however many sequences of a batch attend to it.
"""

from manyhats.methods.prefix.config import PrefixConfig, layer_site
from manyhats.methods.prefix.method import Prefix

__all__ = ["Prefix", "PrefixConfig", "layer_site"]
