"""The frozen model: loading, sites, packed attention."""

from manyhats.backbone import quiet_imports as quiet_imports  # before transformers
from manyhats.backbone import requirements as requirements  # first: it rejects other versions of torch and transformers
from manyhats.backbone.chunks import SequenceChunk
from manyhats.backbone.model import Backbone
from manyhats.backbone.packed_batch import PackedBatch
from manyhats.backbone.packing import pack, pack_chunks, padded_length
from manyhats.backbone.sites import Actors
from manyhats.backbone.staging import StagingBuffer
from manyhats.backbone.tokenizer import Encoded, Text, Tokenizer, TokenOrigins

__all__ = [
    "Actors",
    "Backbone",
    "Encoded",
    "PackedBatch",
    "SequenceChunk",
    "StagingBuffer",
    "Text",
    "TokenOrigins",
    "Tokenizer",
    "pack",
    "pack_chunks",
    "padded_length",
]
