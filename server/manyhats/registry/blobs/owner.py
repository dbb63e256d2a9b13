"""The id of a database, which its blobs are marked with, and a lock among all who write or collect.

A table of its own, made where blobs are shared: two databases in one place would collect each other's contents.
"""

from __future__ import annotations

import uuid

from sqlalchemy import Column, Integer, MetaData, String, Table, insert, select, update
from sqlalchemy.orm import Session

_OWNERS = Table(
    "blob_owner", MetaData(), Column("one", Integer, primary_key=True), Column("id", String(64), nullable=False)
)


def owner_id(session: Session) -> str:
    """The database's id, made where there is none. The session holds the registry's write lock, and is committed."""
    _OWNERS.create(session.connection(), checkfirst=True)
    found = session.scalar(select(_OWNERS.c.id))
    if found is None:
        found = uuid.uuid4().hex
        session.execute(insert(_OWNERS).values(one=1, id=found))
    session.commit()
    return str(found)


def lock(session: Session) -> None:
    """From now on until the session's end, nobody else is behind this line. Needs `owner_id` once before."""
    session.execute(update(_OWNERS).values(id=_OWNERS.c.id))
