"""Alembic's scripts: one revision a schema."""
