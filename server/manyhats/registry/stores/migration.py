"""Which schema a database has, and bringing it to that of this Manyhats, with Alembic."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, delete, insert, inspect, select

from manyhats.errors import ConfigurationError
from manyhats.registry.database import SCHEMA, Base, SchemaRow

_FOLDER = Path(__file__).parent / "migrations"


def schema_of(connection: Connection) -> int:
    """The number of the schema that a database has; 0 where it has none. Later numbers have more."""
    if not inspect(connection).has_table(SchemaRow.__tablename__):
        return 0
    return connection.scalar(select(SchemaRow.version)) or 0


def check_known(schema: int) -> int:
    """The schema. Raises ConfigurationError where a newer Manyhats has written it."""
    if schema > SCHEMA:
        raise ConfigurationError(f"the store was written by a newer Manyhats (schema {schema}, this has {SCHEMA})")
    return schema


def make_tables(connection: Connection) -> None:
    """Makes the tables of the newest schema in an empty database, inside the caller's transaction."""
    Base.metadata.create_all(connection)
    _say(connection, SCHEMA)
    connection.exec_driver_sql(
        "CREATE TABLE IF NOT EXISTS alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"
    )
    connection.exec_driver_sql("DELETE FROM alembic_version")
    connection.exec_driver_sql(f"INSERT INTO alembic_version VALUES ('{SCHEMA:04}')")  # nosec B608  # a constant


def migrate(connection: Connection) -> None:
    """Brings the tables of an older schema to the newest, inside the caller's transaction: all steps or none."""
    from alembic import command  # here, as few starts need it
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    _say(connection, SCHEMA)


def _say(connection: Connection, schema: int) -> None:
    connection.execute(delete(SchemaRow))
    connection.execute(insert(SchemaRow).values(version=schema))
