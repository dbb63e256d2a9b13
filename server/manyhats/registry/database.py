"""The tables of the registry. SQLite beside the adapters; nothing here is SQLite's alone but `connect`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, URL, Engine, ForeignKey, create_engine, event, inspect, select, update
from sqlalchemy.exc import DatabaseError, DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from manyhats.disk import is_full
from manyhats.errors import ConfigurationError, DamagedStore, ManyhatsError, NotReady, StorageFull

SCHEMA = 2  # 1 had no rollouts and no evaluations


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
    """An adapter folder that somebody copied into the store, and what became of it."""

    __tablename__ = "drops"
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


def connect(path: Path, *, make: bool = True) -> sessionmaker[Session]:
    """Opens the database, or makes one where there is none and `make` allows it.

    Raises ConfigurationError for one that is lost, damaged or written by a newer Manyhats; it is left as it is.
    """
    engine = create_engine(URL.create("sqlite", database=str(path)))
    _durable(engine)
    sessions = sessionmaker(engine)
    try:
        with engine.connect() as connection:
            found = str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar())
        if found != "ok":
            raise ConfigurationError(f"the store's database is damaged: {' '.join(found.split())}")
        known = 0
        if inspect(engine).has_table(SchemaRow.__tablename__):
            with sessions() as session:
                known = session.scalar(select(SchemaRow.version)) or 0
        if known > SCHEMA:
            raise ConfigurationError(f"the store was written by a newer Manyhats (schema {known}, this has {SCHEMA})")
        if not known and not make:
            raise ConfigurationError(
                f"the store has adapters, but its database is lost: bring back '{path}', or remove '{path.parent}' "
                "to begin anew"
            )
        Base.metadata.create_all(engine)
        if not known:
            with sessions.begin() as session:
                session.add(SchemaRow(version=SCHEMA))
        elif known < SCHEMA:  # tables were added, and are there now; those of before are as they were
            with sessions.begin() as session:
                session.execute(update(SchemaRow).values(version=SCHEMA))
    except BaseException:
        engine.dispose()
        raise
    return sessions


def write_failed(error: DatabaseError) -> ManyhatsError:
    """The error for the caller of a write that failed, of which nothing was done."""
    if is_full(error):
        return StorageFull("the store has no room: the disk is full")
    if "locked" in str(error.orig):
        return NotReady("another process holds the store's database; try again")
    # A quota or a limit on the size of files does this, too: SQLite has no other name for it.
    if getattr(error.orig, "sqlite_errorname", "") == "SQLITE_IOERR_WRITE":
        return StorageFull(f"the store cannot be written: {error.orig}; a disk, a quota or a limit may be exhausted")
    return DamagedStore(f"the store's database cannot be written: {error.orig}")


def truncate_log(sessions: sessionmaker[Session]) -> None:
    """Frees the disk space of the write-ahead log, as far as that is possible."""
    with suppress(DBAPIError), sessions.kw["bind"].connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")


def _durable(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def pragmas(connection: Any, _: Any) -> None:
        # The write-ahead log stays short, so that it does not fill a small disk.
        for pragma in (
            "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "wal_autocheckpoint=200", "temp_store=MEMORY"
        ):  # fmt: skip
            connection.execute(f"PRAGMA {pragma}")
