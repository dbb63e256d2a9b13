"""The engine's nouns: what a request, a sequence and a scheduled batch are, and who sets each of their fields."""
