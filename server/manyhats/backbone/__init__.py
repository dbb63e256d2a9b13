"""The frozen model: loading, sites, packed attention."""

from manyhats.backbone import requirements as requirements  # first: it refuses other versions of torch, transformers
from manyhats.backbone.model import Backbone
from manyhats.backbone.packing import PackedBatch, Piece, pack, pack_pieces, run_length
from manyhats.backbone.sites import Actors
from manyhats.backbone.tokenizer import Encoded, Text, Tokenizer

__all__ = [
    "Actors",
    "Backbone",
    "Encoded",
    "PackedBatch",
    "Piece",
    "Text",
    "Tokenizer",
    "pack",
    "pack_pieces",
    "run_length",
]
