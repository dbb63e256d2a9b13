"""Contents in an object store, one object each, with a cache on this machine.

<address>/blobs/<sha256>.tar      a content (see packed)
<address>/unneeded/<sha256>       since when nobody needs it, by the object's time
<address>/owner                   the id of the database whose contents these are
<store>/.manyhats/cache/<sha256>/ files of a content; <store>/.manyhats/staging: on their way in or out
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from manyhats.errors import StoreUnavailable
from manyhats.registry.blobs.base import DamagedBlob, Leftover
from manyhats.registry.blobs.bucket import Bucket
from manyhats.registry.blobs.cache import BlobCache
from manyhats.registry.blobs.contents import storage_full
from manyhats.registry.blobs.figures import BlobFigures
from manyhats.registry.blobs.local import another_owner, fault_of, signature_of
from manyhats.registry.blobs.packed import pack, unpack

logger = logging.getLogger(__name__)

_FETCHES = 8  # contents that are fetched at once
_LOCKED = 3.0  # seconds that a request may take while the database waits for it
_OWNER = "owner"


class ObjectStoreBlobs:
    """`own_folder`: of this server alone, for what is staged and cached. `cache_bytes`: at most, of the cache.

    `patience`: see Bucket.
    """

    shared = True

    def __init__(self, address: str, own_folder: Path, cache_bytes: int, patience: float) -> None:
        self.figures = BlobFigures()
        self._bucket = Bucket(address, patience, self.figures)
        self._staging = own_folder / "staging"
        self.cache = BlobCache(own_folder / "cache", cache_bytes, self._staging)
        self._lock = threading.Lock()
        self._flights: dict[str, Future[None]] = {}  # contents that are being fetched
        self._threads = ThreadPoolExecutor(_FETCHES, thread_name_prefix="fetch")
        self._marking = ThreadPoolExecutor(1, thread_name_prefix="unneeded")
        self._answers = True  # whether it did at the start

    @property
    def in_use(self) -> Callable[[], Collection[str]]:
        """Contents that stay in the cache."""
        return self.cache.in_use

    @in_use.setter
    def in_use(self, contents: Callable[[], Collection[str]]) -> None:
        self.cache.in_use = contents

    def open(self) -> None:
        """Opens the cache. Raises ConfigurationError where the store says that it cannot be used."""
        self._staging.mkdir(parents=True, exist_ok=True)
        for path in self._staging.iterdir():
            shutil.rmtree(path, ignore_errors=True)
        self.cache.open()
        self._answers = self._bucket.check()
        if not self._answers:
            logger.warning("the blob store %s does not answer; only cached adapters can be used", self._bucket.address)

    def close(self) -> None:
        """Waits for fetches under way."""
        self._threads.shutdown(cancel_futures=True)
        self._marking.shutdown()

    @contextmanager
    def stage(self) -> Iterator[Path]:
        """An empty folder for files on their way, removed at the end. Raises StorageFull where the disk is full."""
        folder = self._staging / uuid.uuid4().hex
        try:
            with storage_full():
                folder.mkdir()
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    # ---- reading

    def empty(self) -> bool | None:
        """Whether there is no content; None where the store does not answer."""
        try:
            return not self._bucket.first("blobs") if self._answers else None
        except StoreUnavailable:
            return None

    def missing(self, contents: set[str]) -> set[str]:
        """Those of the contents that the store does not have; none where it does not answer."""
        if not self._answers or not contents:
            return set()
        try:
            return contents - self.stored().keys()
        except StoreUnavailable:
            return set()

    def path(self, sha256: str) -> Path:
        """The folder of a content in the cache."""
        return self.cache.path(sha256)

    def fetch(self, contents: Iterable[str], then: Callable[[], None], failed: Callable[[BaseException], None]) -> None:
        """Brings the contents into the cache, and calls `then`."""
        wanted = set(contents)
        missing = [sha for sha in wanted if not self.cache.has(sha)]
        for _ in range(len(wanted) - len(missing)):
            self.figures.count(self.figures.requests, "hit")
        if not missing:
            then()
            return

        def bring_all() -> None:
            try:
                for sha in missing:
                    self._bring(sha)
            except DamagedBlob:
                pass  # whoever reads it says so
            except BaseException as error:
                failed(error)
                return
            then()

        self._threads.submit(bring_all)

    @contextmanager
    def reading(self, sha256: str) -> Iterator[Path]:
        """The folder of a content in the cache, which stays there meanwhile."""
        with self.cache.reading(sha256) as folder:
            self._bring(sha256)
            yield folder

    def fault(self, sha256: str) -> str | None:
        """Why a content cannot be used; None where the cache has it now, whole. A damaged copy is fetched again."""
        with self.cache.reading(sha256) as folder:
            if self.cache.has(sha256):
                if (reason := fault_of(folder, sha256)) is None:
                    return None
                logger.warning("the cached files of %s are fetched again: %s", sha256, reason)
                self.figures.count(self.figures.requests, "damaged")
                self.cache.drop(sha256)
            try:
                self._bring(sha256)
            except DamagedBlob as error:
                return str(error)
        return None

    def signature(self, sha256: str) -> object:
        """What changes with a content's files: those of the cache, or else the object."""
        if self.cache.has(sha256):
            return signature_of(self.cache.path(sha256))
        found = self._bucket.head(_name(sha256))
        return found and (found["e_tag"], found["size"], found["last_modified"])

    def is_damaged(self, sha256: str) -> bool:
        """Never to be replaced: every upload replaces the object."""
        return False

    def _bring(self, sha256: str) -> None:
        """Has a content in the cache. Of several threads that want the same one, one fetches it.

        Raises DamagedBlob, and what `room` of the cache raises.
        """
        with self._lock:
            if self.cache.has(sha256):
                return
            flight = self._flights.get(sha256)
            first = flight is None
            if flight is None:
                flight = self._flights[sha256] = Future()
        if first:
            try:
                self._fetch(sha256)
                flight.set_result(None)
            except BaseException as error:
                flight.set_exception(error)
            finally:
                with self._lock:
                    del self._flights[sha256]
        flight.result()

    def _fetch(self, sha256: str) -> None:
        self.figures.count(self.figures.requests, "miss")
        begin = time.monotonic()
        with self.stage() as folder, self.cache.room() as reserve:
            try:
                size = unpack(lambda start, stop: self._bucket.get(_name(sha256), start, stop), sha256, folder, reserve)
            except FileNotFoundError:
                raise DamagedBlob("the store has no such object") from None
            self.cache.add(sha256, folder, reserved=size)
        self.figures.fetch(size, time.monotonic() - begin)

    # ---- writing

    def put(self, folder: Path, sha256: str) -> None:
        """Puts the object; one that is there is replaced by the same bytes, and is new again for `delete`."""
        size, chunks = pack(folder)
        self.cache.check_fits(size)
        self._bucket.put(_name(sha256), chunks, size)

    def keep(self, folder: Path, sha256: str, *, replace: bool = False) -> None:
        """Sees that what `put` put is still there, and moves the staged files into the cache."""
        if self._bucket.head(_name(sha256), _LOCKED) is None:  # collected since
            self.put(folder, sha256)
        self.cache.add(sha256, folder)

    def remove(self, sha256: str) -> None:
        """Marks it, from another thread, and forgets its cached files."""
        self.cache.drop(sha256)
        self._marking.submit(self._try_to_mark, sha256)

    def _try_to_mark(self, sha256: str) -> None:
        try:
            self.mark(sha256)
        except StoreUnavailable:  # `manyhats gc` finds it without a mark
            logger.warning("the content %s is not needed any more, and could not be marked", sha256)

    def clean(self, known: set[str]) -> None:
        """Removes from the cache what no version needs."""
        for sha in self.cache.contents() - known:
            self.cache.drop(sha)

    def claim(self, owner: str) -> None:
        """Says whose contents these are. Where the store does not answer, the next start does."""
        try:
            found = self.owner()
            if found is None:
                self._bucket.put(_OWNER, lambda: iter([owner.encode()]), len(owner))
                found = self.owner()  # of two at once, both look at what is there then
        except StoreUnavailable:
            return
        if found != owner:
            raise another_owner(self._bucket.address, found or "", f"{self._bucket.address.rstrip('/')}/{_OWNER}")

    def owner(self) -> str | None:
        """The id of the database whose contents these are; None where none has claimed them."""
        try:
            return self._bucket.get(_OWNER, 0, 200)[0].decode(errors="replace")
        except FileNotFoundError:
            return None

    # ---- collecting what is not needed

    def stored(self) -> dict[str, float]:
        """When each content was last put, in unix seconds by the store's clock."""
        return {one.name.removesuffix(".tar"): one.modified for one in self._bucket.list("blobs")}

    def marks(self) -> dict[str, float]:
        """Since when each content is marked as not needed, in unix seconds by the store's clock."""
        return {one.name: one.modified for one in self._bucket.list("unneeded")}

    def mark(self, sha256: str) -> None:
        """Marks a content as not needed from now on."""
        self._bucket.put(f"unneeded/{sha256}", lambda: iter([b""]), 0)

    def unmark(self, contents: Collection[str]) -> None:
        """Takes marks away."""
        names = [f"unneeded/{sha}" for sha in contents]
        for i in range(0, len(names), 1000):
            self._bucket.delete(names[i : i + 1000])

    def delete(self, sha256: str, before: float) -> bool:
        """Deletes an object that was not put again since `before`."""
        found = self._bucket.head(_name(sha256), _LOCKED)
        if found is not None and found["last_modified"].timestamp() > before:
            return False
        self._bucket.delete([_name(sha256)], _LOCKED)
        self.cache.drop(sha256)
        return True

    def cached(self) -> set[str]:
        """The contents that have a folder in the cache."""
        return self.cache.on_disk()

    def forget(self, sha256: str) -> None:
        """Removes it from the cache."""
        self.cache.drop(sha256)

    def leftovers(self) -> list[Leftover]:
        """What lies in this server's staging; an upload that has not ended is no object."""
        found = sorted(self._staging.iterdir()) if self._staging.exists() else []
        return [Leftover(path.name, path.stat().st_mtime) for path in found]

    def delete_leftover(self, leftover: Leftover) -> None:
        """Removes it."""
        shutil.rmtree(self._staging / leftover.name, ignore_errors=True)


def _name(sha256: str) -> str:
    return f"blobs/{sha256}.tar"
