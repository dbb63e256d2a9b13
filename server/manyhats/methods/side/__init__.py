"""Side-tuning: a small network whose output is blended with the frozen backbone's (Zhang et al. 2020, section 3).

    R(x) = sigmoid(alpha) B(x) + (1 - sigmoid(alpha)) S(x)        at the last hidden states

The side network S is a smaller pretrained model on the same tokens, or blocks of the backbone's own architecture on the
backbone's embeddings.
"""

from manyhats.methods.side.config import SIDE_SITE, SideConfig
from manyhats.methods.side.method import Side

__all__ = ["SIDE_SITE", "Side", "SideConfig"]
