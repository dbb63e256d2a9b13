"""The frozen model: loading, sites, packed attention."""

from manyhats.backbone.model import Backbone, PackedBatch
from manyhats.backbone.sites import Actors
from manyhats.backbone.tokenizer import Encoded, Text, Tokenizer

__all__ = ["Actors", "Backbone", "Encoded", "PackedBatch", "Text", "Tokenizer"]
