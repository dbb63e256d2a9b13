"""A prefix in a bucket of an object store. Address and credentials are the operator's: the usual `AWS_*` variables."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from manyhats.disk import is_full
from manyhats.errors import ConfigurationError, NotFound, PermissionDenied, SourceFailed, TooLarge
from manyhats.registry.origin import Origin
from manyhats.registry.s3_endpoint import allows_http, endpoint
from manyhats.registry.sources.allowed import bucket_and_prefix
from manyhats.registry.sources.base import MAX_ENTRIES, Deadline, Listing, RemoteFile

if TYPE_CHECKING:
    from obstore.store import S3Store

logger = logging.getLogger(__name__)

_LOGGED = 2000  # characters of an error
_SILENCE = timedelta(seconds=20)
_RETRIES = 3
_PAGE = 1000  # objects
_CHUNK = 256 << 10  # bytes


def check_available(allowed: Sequence[str]) -> None:
    """Raises ConfigurationError where object stores are allowed, and what reads them is not installed."""
    if any(pattern.startswith("s3:") for pattern in allowed) and find_spec("obstore") is None:
        raise ConfigurationError("allowed_sources names an object store, which needs: pip install 'manyhats[s3]'")


def open_bucket(bucket: str, seconds: float) -> S3Store:
    """A bucket by the environment's `AWS_*` variables. No request, with its retries, takes longer than `seconds`."""
    from obstore.store import S3Store

    address = endpoint()
    given: dict[str, Any] = {} if address is None else {"endpoint": address}
    longest = timedelta(seconds=seconds)
    return S3Store(
        bucket,
        **given,
        client_options={
            "timeout": longest,
            "connect_timeout": min(longest, _SILENCE),
            "read_timeout": min(longest, _SILENCE),
            "allow_http": allows_http(address),
        },
        retry_config={"max_retries": _RETRIES, "retry_timeout": min(longest, 3 * _SILENCE)},
    )


class S3Source:
    """The objects below `s3://bucket/prefix/`. Raises what `bucket_and_prefix` and `check_available`
    raise."""

    def __init__(self, address: str, allowed: Sequence[str]) -> None:
        self._bucket, self._prefix = bucket_and_prefix(address, allowed)
        check_available(allowed)  # they may have been read again since the start
        self._store: S3Store | None = None

    def list(self, deadline: Deadline) -> Listing:
        """The objects, by their names below the prefix."""
        self._store = open_bucket(self._bucket, deadline.left())
        files: list[RemoteFile] = []
        with _named_errors():
            for page in self._store.list(f"{self._prefix}/", chunk_size=_PAGE):
                deadline.check()
                for one in page:
                    name = one["path"].removeprefix(f"{self._prefix}/")
                    files.append(RemoteFile(name, one["size"], etag=(one["e_tag"] or "").strip('"')))
                if len(files) > MAX_ENTRIES:
                    raise TooLarge(f"there are more than {MAX_ENTRIES} objects below the prefix", param="source.s3")
        if not files:
            raise NotFound(f"there is no object below s3://{self._bucket}/{self._prefix}/", param="source.s3")
        return Listing(Origin("s3", f"s3://{self._bucket}/{self._prefix}"), tuple(files))

    @contextmanager
    def open(self, file: RemoteFile, deadline: Deadline) -> Iterator[Iterator[bytes]]:
        """An object's bytes, as long as it is the one that was listed."""
        assert self._store is not None
        deadline.check()
        with _named_errors():
            found = self._store.get(
                f"{self._prefix}/{file.name}", options={"if_match": f'"{file.etag}"'} if file.etag else {}
            )
            yield _checked(found.stream(min_chunk_size=_CHUNK), deadline)


def _checked(stream: Any, deadline: Deadline) -> Iterator[bytes]:
    for chunk in stream:
        deadline.check()
        yield bytes(chunk)


@contextmanager
def _named_errors() -> Iterator[None]:
    """What the library raises, as ours. Its texts have addresses and answers of the store: they go to the log alone."""
    from obstore import exceptions

    try:
        yield
    except exceptions.PreconditionError:
        raise SourceFailed("an object has changed while it was read; send the request again", param="source") from None
    except (exceptions.BaseError, OSError) as error:
        if is_full(error):
            raise
        logger.warning("an object store that is a source: %s", str(error)[:_LOGGED])
        status = _status(error)
        if status == 404:
            raise NotFound("the object store has no such bucket or object", param="source.s3") from None
        if status in (401, 403):
            raise PermissionDenied("the object store does not let this server read there", param="source.s3") from None
        said = f"it answers with status {status}" if status else "it does not answer as it should"
        raise SourceFailed(f"the object store cannot be read: {said}", param="source") from None


def _status(error: Exception) -> int | None:
    """The status that an error of the library means. Lists' errors have no class of their own, only their text."""
    from obstore import exceptions

    if isinstance(error, exceptions.NotFoundError | FileNotFoundError):
        return 404
    if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
        return 403
    found = re.search(r"status code: (\d{3})\b", str(error))
    return int(found[1]) if found else None
