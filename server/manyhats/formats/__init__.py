"""Adapter folders of every format: which it is, what it holds, and whether it fits the backbone."""
