"""The tables of the registry, the same in every kind of database (`registry.stores`)."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Integer
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# 1 had no rollouts and no evaluations, 2 no changes, and one server's folders alone. Each has its migration.
SCHEMA = 3


class Base(DeclarativeBase):
    """All tables."""


class SchemaRow(Base):
    """One row: which layout the tables have."""

    __tablename__ = "schema"
    version: Mapped[int] = mapped_column(primary_key=True)


class TaskRow(Base):
    """A task. `next_version` only grows, so that a number never comes back."""

    __tablename__ = "tasks"
    name: Mapped[str] = mapped_column(primary_key=True)
    created: Mapped[float]
    settings: Mapped[dict[str, Any]] = mapped_column(JSON)
    next_version: Mapped[int] = mapped_column(default=1)


class VersionRow(Base):
    """One version of a task's adapter. `info`: the fields of AdapterInfo."""

    __tablename__ = "versions"
    task: Mapped[str] = mapped_column(ForeignKey("tasks.name", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(index=True)
    created: Mapped[float]
    info: Mapped[dict[str, Any]] = mapped_column(JSON)


class AliasRow(Base):
    """What an alias points at: a list of [version, weight]."""

    __tablename__ = "aliases"
    task: Mapped[str] = mapped_column(ForeignKey("tasks.name", ondelete="CASCADE"), primary_key=True)
    alias: Mapped[str] = mapped_column(primary_key=True)
    targets: Mapped[list[list[float]]] = mapped_column(JSON)


class RolloutRow(Base):
    """What an alias has besides its versions: the fields of Rollout."""

    __tablename__ = "rollouts"
    task: Mapped[str] = mapped_column(ForeignKey("tasks.name", ondelete="CASCADE"), primary_key=True)
    alias: Mapped[str] = mapped_column(primary_key=True)
    rollout: Mapped[dict[str, Any]] = mapped_column(JSON)


class EvaluationRow(Base):
    """How good a version was on labelled examples, the last time: the fields of Evaluation."""

    __tablename__ = "evaluations"
    task: Mapped[str] = mapped_column(ForeignKey("tasks.name", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    evaluation: Mapped[dict[str, Any]] = mapped_column(JSON)


class HistoryRow(Base):
    """What `stable` pointed at before, newest last: the way back."""

    __tablename__ = "alias_history"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    task: Mapped[str] = mapped_column(ForeignKey("tasks.name", ondelete="CASCADE"), index=True)
    targets: Mapped[list[list[float]]] = mapped_column(JSON)


class FolderImportRow(Base):
    """An adapter folder that somebody copied into a server's store, and what became of it.

    `server`: whose folder it is; empty where one server has the database for itself.
    """

    __tablename__ = "folder_imports"
    server: Mapped[str] = mapped_column(primary_key=True)
    folder: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    outcome: Mapped[str]


class AuditRow(Base):
    """A change, and who made it. `before`, `after`: what the alias pointed at, as in AliasRow. It outlives its task."""

    __tablename__ = "audit"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012  # SQLAlchemy's
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    time: Mapped[float]
    actor: Mapped[str]
    tenant: Mapped[str]
    request_id: Mapped[str]
    action: Mapped[str]
    task: Mapped[str] = mapped_column(index=True)
    alias: Mapped[str]
    version: Mapped[int | None]
    before: Mapped[list[list[float]]] = mapped_column(JSON)
    after: Mapped[list[list[float]]] = mapped_column(JSON)
    detail: Mapped[str]


class ChangeRow(Base):
    """A task that was changed, for the other servers of the database. Ids grow in the order of the commits."""

    __tablename__ = "changes"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012  # SQLAlchemy's
    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
    task: Mapped[str]
