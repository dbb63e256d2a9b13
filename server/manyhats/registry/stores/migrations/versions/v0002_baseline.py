"""The tables of schema 2, which stores before migrations have, but for those that the oldest lack."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = None


def upgrade() -> None:
    """Makes what is not there."""
    _table("schema", sa.Column("version", sa.Integer(), primary_key=True))
    _table(
        "tasks",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("next_version", sa.Integer(), nullable=False),
    )
    _table(
        "versions",
        _of_task(primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True),
        sa.Column("sha256", sa.String(), nullable=False, index=True),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("info", sa.JSON(), nullable=False),
    )
    _table(
        "aliases",
        _of_task(primary_key=True),
        sa.Column("alias", sa.String(), primary_key=True),
        sa.Column("targets", sa.JSON(), nullable=False),
    )
    _table(
        "rollouts",
        _of_task(primary_key=True),
        sa.Column("alias", sa.String(), primary_key=True),
        sa.Column("rollout", sa.JSON(), nullable=False),
    )
    _table(
        "evaluations",
        _of_task(primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True),
        sa.Column("evaluation", sa.JSON(), nullable=False),
    )
    _table(
        "alias_history",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        _of_task(index=True, nullable=False),
        sa.Column("targets", sa.JSON(), nullable=False),
    )
    _table(
        "drops",
        sa.Column("folder", sa.String(), primary_key=True),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
    )
    _table(
        "audit",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("time", sa.Float(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("task", sa.String(), nullable=False, index=True),
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("before", sa.JSON(), nullable=False),
        sa.Column("after", sa.JSON(), nullable=False),
        sa.Column("detail", sa.String(), nullable=False),
        sqlite_autoincrement=True,
    )


def _table(name: str, *columns: sa.Column[Any], **options: Any) -> None:
    if not sa.inspect(op.get_bind()).has_table(name):
        op.create_table(name, *columns, **options)


def _of_task(**options: Any) -> sa.Column[Any]:
    return sa.Column("task", sa.String(), sa.ForeignKey("tasks.name", ondelete="CASCADE"), **options)
