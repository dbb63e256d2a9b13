"""Adapter folders: detects, reads and writes every format, and checks that the adapter fits the backbone."""
