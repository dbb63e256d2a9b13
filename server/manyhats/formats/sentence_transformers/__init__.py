"""What sentence-transformers saves beside an adapter: pooling, what stands behind it, prompts, limits."""

from manyhats.formats.sentence_transformers.reader import is_folder, read_onto, weight_files

__all__ = ["is_folder", "read_onto", "weight_files"]
