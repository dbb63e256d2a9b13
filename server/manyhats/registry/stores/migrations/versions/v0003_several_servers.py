"""For several servers on one database: what has changed, and whose folder was imported."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """The folders of before are those of the one server that there was, whose name is empty."""
    op.create_table(
        "changes",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("task", sa.String(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "folder_imports",
        sa.Column("server", sa.String(), primary_key=True),
        sa.Column("folder", sa.String(), primary_key=True),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
    )
    op.execute("INSERT INTO folder_imports SELECT '', folder, fingerprint, outcome FROM drops")
    op.drop_table("drops")
