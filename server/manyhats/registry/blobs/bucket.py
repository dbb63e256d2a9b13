"""An object store as obstore opens it, asked again for a while where it fails."""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from manyhats.errors import ConfigurationError, StoreUnavailable
from manyhats.registry.blobs.figures import BlobFigures, Operation
from manyhats.registry.s3_endpoint import allows_http, endpoint

logger = logging.getLogger(__name__)

T = TypeVar("T")

ADDRESS = re.compile(r"(s3|gs|az)://[^/\s]+(/\S*)?")
_SHORTEST, _LONGEST = 0.05, 1.0  # seconds between two attempts
_PART = 8 << 20  # bytes of one request of an upload
_PAUSE = 5.0  # seconds after which a store that has failed for its whole time is asked again
_ENDED = "416 Range Not Satisfiable"
_WRONG = re.compile(r"NoSuchBucket|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|40[134] [A-Z]")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object of a listing. `modified`: unix seconds, `size` in bytes."""

    name: str
    modified: float
    size: int


class Bucket:
    """The objects below an address (`s3://bucket/prefix`). Blocking; safe from any thread.

    Credentials and endpoint come from the environment. `patience`: seconds that one request may take, with all its
    attempts. Then it is given up with StoreUnavailable, and others fail at once for a while.
    """

    def __init__(self, address: str, patience: float, figures: BlobFigures) -> None:
        self.address = address
        self._patience = patience
        self._figures = figures
        self._paused_until = 0.0
        try:
            import obstore
            import obstore.store
        except ImportError:
            raise ConfigurationError("blobs in an object store need obstore: pip install 'manyhats[s3]'") from None
        library: Any = obstore
        self._obstore = library
        self._errors: tuple[type[Exception], ...] = (obstore.exceptions.BaseError, OSError)
        s3 = endpoint() if address.startswith("s3:") else None
        options: dict[str, Any] = {
            "client_options": {
                "timeout": timedelta(seconds=max(patience / 2, 1.0)),  # of one attempt
                "connect_timeout": timedelta(seconds=min(max(patience / 4, 1.0), 5.0)),
            }
        }
        if s3 is not None:
            options["endpoint"] = s3
            options["client_options"]["allow_http"] = allows_http(s3)
        again = {"max_retries": 100, "retry_timeout": timedelta(seconds=patience)}
        again["backoff"] = {
            "init_backoff": timedelta(seconds=_SHORTEST),
            "max_backoff": timedelta(seconds=_LONGEST),
            "base": 2,
        }
        try:
            # Attempts are made and counted here, but for uploads of many parts, of which only the library knows.
            self._store = library.store.from_url(address, **options, retry_config={"max_retries": 0})
            self._patient = library.store.from_url(address, **options, retry_config=again)
        except self._errors as error:
            raise ConfigurationError(f"blobs_url '{address}' cannot be opened: {_first_line(error)}") from None
        except ValueError as error:
            raise ConfigurationError(f"blobs_url '{address}' cannot be opened: {error}") from None

    def check(self) -> bool:
        """Whether the store answers now. Raises ConfigurationError where it says that the bucket cannot be used."""
        try:
            self.first("")
        except StoreUnavailable as error:
            reason = str(error.__cause__ or error)
            if _WRONG.search(reason):
                raise ConfigurationError(
                    f"the blobs in '{self.address}' cannot be read: {_first_line(error.__cause__)}"
                ) from None
            return False
        return True

    def get(self, name: str, start: int, stop: int) -> tuple[bytes, int]:
        """The bytes from `start` to before `stop`, as far as the object has them, and the object's size.

        Raises FileNotFoundError where there is none.
        """

        def get() -> tuple[bytes, int]:
            try:
                found = self._obstore.get(self._store, name, options={"range": (start, stop)})
            except self._errors as error:
                if _ENDED in str(error):
                    return b"", start
                raise
            return bytes(found.bytes()), int(found.meta["size"])

        return self._attempted("get", get)

    def put(self, name: str, chunks: Callable[[], Iterator[bytes]], size: int) -> None:
        """Puts an object of so many bytes, whole or not at all."""
        if size <= _PART:
            data = b"".join(chunks())
            self._attempted("put", lambda: self._obstore.put(self._store, name, data, use_multipart=False))
        else:
            put = self._obstore.put
            self._attempted(
                "put",
                lambda: put(self._patient, name, chunks(), use_multipart=True, chunk_size=_PART, max_concurrency=2),
            )

    def head(self, name: str, patience: float | None = None) -> dict[str, Any] | None:
        """`e_tag`, `size` and `last_modified` of an object; None where there is none."""
        try:
            return dict(self._attempted("head", lambda: self._obstore.head(self._store, name), patience))
        except FileNotFoundError:
            return None

    def first(self, folder: str) -> bool:
        """Whether there is any object below a folder."""
        return next(self._listed(folder, 1), None) is not None

    def list(self, folder: str) -> Iterator[StoredObject]:
        """All objects below a folder, by their names in it."""
        yield from self._listed(folder, 1000)

    def delete(self, names: Collection[str], patience: float | None = None) -> None:
        """Deletes objects; those that are not there do not matter."""

        def delete() -> None:
            with suppress(FileNotFoundError):
                self._obstore.delete(self._store, [*names])

        if names:
            self._attempted("delete", delete, patience)

    def _listed(self, folder: str, count: int) -> Iterator[StoredObject]:
        # A page that fails ends a listing for good, so that the next attempt goes on behind the last name.
        last: str | None = None
        prefix = f"{folder}/" if folder else ""
        while True:

            def page(after: str | None = last) -> list[dict[str, Any]]:
                found = self._obstore.list(self._store, folder or None, offset=after, chunk_size=count)
                return list(next(iter(found), []))

            rows = self._attempted("list", page)
            for row in rows:
                name = str(row["path"])
                yield StoredObject(name.removeprefix(prefix), row["last_modified"].timestamp(), int(row["size"]))
            if not rows:
                return
            last = str(rows[-1]["path"])

    def _attempted(self, operation: Operation, do: Callable[[], T], patience: float | None = None) -> T:
        """What `do` gives, tried again until the patience is over. Raises FileNotFoundError, StoreUnavailable."""
        begin = time.monotonic()
        if begin < self._paused_until:
            raise self._unavailable(self._paused_until - begin)
        end = begin + min(self._patience, patience or self._patience)
        wait = _SHORTEST
        while True:
            try:
                found = do()
            except FileNotFoundError:
                raise
            except self._errors as error:
                now = time.monotonic()
                wrong = _WRONG.search(str(error)) is not None  # asking again would not help
                if wrong or now + wait >= end:
                    if not wrong:
                        self._paused_until = now + _PAUSE
                    self._figures.count(self._figures.errors, operation)
                    logger.error("the blob store %s: %s failed: %s", self.address, operation, _first_line(error))
                    raise self._unavailable(_PAUSE) from error
                self._figures.count(self._figures.retries, operation)
                time.sleep(wait * random.uniform(0.5, 1.0))
                wait = min(2 * wait, _LONGEST)
            else:
                self._paused_until = 0.0
                return found

    def _unavailable(self, seconds: float) -> StoreUnavailable:
        return StoreUnavailable("the store of the adapters' files does not answer; try again", retry_after=seconds)


def _first_line(error: BaseException | None) -> str:
    return str(error).partition("\n")[0][:500]
