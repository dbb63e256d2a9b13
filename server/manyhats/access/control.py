"""Whose key a request has: the settings' keys, the keys file's, and tokens of an identity provider.

A key that was right once is known again by a digest that only this process can make, without the work of a hash.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anyio import CapacityLimiter, to_thread
from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from manyhats.access.identity import Identity
from manyhats.access.keys import KeyFile, KeyRecord, split_key
from manyhats.access.quotas import Quotas
from manyhats.access.scopes import ALL_SCOPES, task_pattern
from manyhats.access.tokens import TokenVerifier, is_token
from manyhats.core.call import ANYBODY, Caller
from manyhats.errors import AuthenticationRequired, ConfigurationError, ManyhatsError, Overloaded
from manyhats.registry.store_state import OWN_FOLDER
from manyhats.settings import Settings

logger = logging.getLogger(__name__)

_REMEMBERED = 4096  # keys and tokens
_MAX_WAITING = 64  # keys that wait until they are compared
_FAILURES = parse("10/minute")  # comparisons of wrong secrets with one key's hash
_TOKEN_KEPT = 60.0  # seconds until a token is checked again, whose key may be gone
_NONE_GIVEN = "a key is needed: send it as 'Authorization: Bearer KEY'"
_WRONG = "this key is not known here; send one as 'Authorization: Bearer KEY'"

ASKING = frozenset({"predict", "metrics"})  # what `api_keys` are for


def keys_file(settings: Settings) -> Path:
    """Where the keys are."""
    return settings.keys_file or settings.store / OWN_FOLDER / "keys.json"


def asks_for_keys(settings: Settings) -> bool:
    """Whether nobody may do anything without a key."""
    return bool(settings.api_keys or settings.jwt_issuer) or keys_file(settings).exists()


@dataclass(frozen=True, slots=True)
class _Known:
    """An identity that was made of a key or token. `until`: time.monotonic() after which it is made anew."""

    identity: Identity
    record: KeyRecord | None = None
    until: float | None = None


@dataclass(slots=True)
class _State:
    """What holds since the keys were read. Another one takes its place as a whole."""

    records: Mapping[str, KeyRecord]  # by id
    own: list[tuple[bytes, Identity]]  # of the settings
    anonymous: Identity | None  # what holds without a key; None where nothing does
    is_open: bool  # there are no keys at all: everybody may do everything
    known: OrderedDict[bytes, _Known] = field(default_factory=OrderedDict)  # by digest


class AccessControl:
    """Knows whose key a request has. Raises ConfigurationError for a damaged keys file, and what TokenVerifier raises.

    Coroutines run on one event loop; `reload` may be called in any thread.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._file = KeyFile(keys_file(settings))
        self._tokens = TokenVerifier(settings) if settings.jwt_issuer else None
        self._secret = secrets.token_bytes(32)
        self._comparing = CapacityLimiter(1)
        self._failures = FixedWindowRateLimiter(MemoryStorage())
        self._pending: dict[bytes, asyncio.Task[_Known]] = {}
        # Told of `key_create` and `key_revoke` with the key, where a reload finds them.
        self.on_change: Callable[[str, KeyRecord], None] = lambda action, record: None
        self._reloading = threading.RLock()
        self._mark = self._file.mark()
        self._had_file = self._mark is not None
        self._reload_failed = ""
        self._state = self._made(self._file.read(), {}, asked=self._had_file)

    # ---- what changes

    def use(self, settings: Settings) -> None:
        """Has the keys of these settings from now on, and reads the file again. In any thread."""
        with self._reloading:
            self._settings = settings
            self.reload()

    @property
    def asks_for_keys(self) -> bool:
        """Whether nobody may do anything without a key."""
        return self._state.anonymous is None

    def reload(self) -> bool:
        """Reads the keys file again; whether it has changed. A damaged one is logged, and the keys before stay."""
        with self._reloading:
            return self._reload()

    def _reload(self) -> bool:
        try:
            mark = self._file.mark()
            records = self._file.read()
        except ConfigurationError as error:
            if error.message != self._reload_failed:
                logger.error("%s; the keys that were read before hold on", error.message)
            self._reload_failed = error.message
            return False
        self._reload_failed = ""
        before = self._state
        if mark is None and self._mark is not None:
            logger.error("the keys file '%s' is gone: its keys do not hold any more", self._file.path)
        # Once a key was asked for, it is: a file that is removed must not open the server.
        self._had_file = self._had_file or mark is not None
        self._mark = mark
        self._state = self._made(records, before.records, asked=self._had_file, known=_snapshot(before.known))
        changed = dict(self._state.records) != dict(before.records)
        if changed:
            logger.info("the keys file was read: %d keys", sum(one.state == "active" for one in records))
            self._tell(before.records)
        return changed

    def reload_if_changed(self) -> None:
        """`reload` where the file is another one than before."""
        try:
            changed = self._file.mark() != self._mark
        except ConfigurationError:
            changed = True
        if changed:
            self.reload()

    def _tell(self, before: Mapping[str, KeyRecord]) -> None:
        for key_id, record in self._state.records.items():
            was = before.get(key_id)
            action = "key_create" if was is None else "key_revoke" if was.revoked != record.revoked else ""
            try:
                if action:
                    self.on_change(action, record)
            except ManyhatsError as error:
                logger.error("%s of '%s' is not in the audit log: %s", action, record.name, error.message)

    def _made(
        self,
        records: tuple[KeyRecord, ...],
        before: Mapping[str, KeyRecord],
        *,
        asked: bool,
        known: Mapping[bytes, _Known] | None = None,
    ) -> _State:
        settings = self._settings
        by_id = {record.id: record for record in records}
        alone = not (asked or self._tokens is not None)  # the settings say all
        may_ask = ALL_SCOPES if alone and not settings.admin_keys else ASKING
        own = [_own("admin_keys", i, key.get_secret_value(), ALL_SCOPES) for i, key in enumerate(settings.admin_keys)]
        own += [_own("api_keys", i, key.get_secret_value(), may_ask) for i, key in enumerate(settings.api_keys)]
        anonymous = Identity(ANYBODY, may_ask, anonymous=True) if alone and not settings.api_keys else None
        state = _State(by_id, own, anonymous, is_open=anonymous is not None and not own)
        for digest, one in (known or {}).items():
            if one.record is None:  # a token, or one of the settings', which may have other scopes now
                if one.until is not None:
                    state.known[digest] = one
                continue
            record = by_id.get(one.record.id)
            if record is not None and record.hash == one.record.hash:
                state.known[digest] = one if record == one.record else _Known(_identity(record), record)
        return state

    # ---- requests

    async def identify(self, header: bytes | None) -> Identity:
        """Whose request it is, by its `Authorization`. Raises AuthenticationRequired, Overloaded and NotReady."""
        state = self._state
        if header is None or state.is_open:
            if state.anonymous is None:
                raise AuthenticationRequired(_NONE_GIVEN)
            return state.anonymous
        digest = hmac.digest(self._secret, header, "sha256")
        known = state.known.get(digest)
        if known is not None and (known.until is None or time.monotonic() < known.until):
            state.known.move_to_end(digest)
            identity = known.identity
        else:
            try:
                identity = await self._made_of(state, digest, header)
            except AuthenticationRequired:
                if state.anonymous is None:
                    raise
                return state.anonymous
        if identity.problem:
            raise AuthenticationRequired(identity.problem)
        if identity.expires is not None and time.time() >= identity.expires:
            raise AuthenticationRequired("this key has expired; ask for another one")
        return identity

    async def _made_of(self, state: _State, digest: bytes, header: bytes) -> Identity:
        """The identity of a key that is not known yet. Raises what `identify` raises."""
        scheme, _, given = header.partition(b" ")
        key = given.strip()
        if scheme.lower() != b"bearer" or not key:
            raise AuthenticationRequired(_NONE_GIVEN)
        # Every key is compared in full, so that the time taken tells nothing.
        own = [identity for text, identity in state.own if hmac.compare_digest(key, text)]
        if own:
            return _remember(state, digest, _Known(own[0]))
        text = key.decode("ascii", errors="replace")
        if (parts := split_key(text)) is not None:
            record = state.records.get(parts[0])
            if record is not None and record.may_be(parts[1]):
                return _remember(state, digest, await self._once(digest, lambda: self._of_file(record, parts[1])))
        elif self._tokens is not None and is_token(text):
            return _remember(state, digest, await self._once(digest, lambda: self._of_token(text)))
        raise AuthenticationRequired(_WRONG)

    async def _once(self, digest: bytes, compare: Callable[[], Coroutine[Any, Any, _Known]]) -> _Known:
        """What `compare` gives, once for all requests with the same key that wait for it."""
        task = self._pending.get(digest)
        if task is None:
            if len(self._pending) >= _MAX_WAITING:
                raise Overloaded("many new keys are being checked; send the request again")
            task = self._pending[digest] = asyncio.create_task(compare())
            task.add_done_callback(lambda done: self._done(digest, done))
        return await asyncio.shield(task)

    def _done(self, digest: bytes, task: asyncio.Task[_Known]) -> None:
        del self._pending[digest]
        if not task.cancelled():
            task.exception()  # whoever waited was told

    async def _of_file(self, record: KeyRecord, secret: str) -> _Known:
        if not self._failures.test(_FAILURES, record.id):
            raise Overloaded("wrong keys of this id were sent too often; wait a minute", retry_after=60)
        if not await to_thread.run_sync(record.is_of, secret, limiter=self._comparing):
            self._failures.hit(_FAILURES, record.id)
            raise AuthenticationRequired(_WRONG)
        return _Known(_identity(record), record)

    async def _of_token(self, token: str) -> _Known:
        assert self._tokens is not None
        return _Known(await self._tokens.verify(token), until=time.monotonic() + _TOKEN_KEPT)


def _remember(state: _State, digest: bytes, known: _Known) -> Identity:
    while len(state.known) >= _REMEMBERED:
        state.known.popitem(last=False)
    state.known[digest] = known
    return known.identity


def _snapshot(known: OrderedDict[bytes, _Known]) -> dict[bytes, _Known]:
    """A copy; the event loop may remember another one meanwhile."""
    while True:
        try:
            return dict(known)
        except RuntimeError:  # it has changed
            continue


def _own(setting: str, index: int, key: str, scopes: frozenset[str]) -> tuple[bytes, Identity]:
    return key.encode(), Identity(Caller(key=f"{setting}[{index}]"), scopes)


def _identity(record: KeyRecord) -> Identity:
    quotas = None
    if record.requests or record.tokens:
        quotas = Quotas(record.id, requests=record.requests, tokens=record.tokens)
    caller = Caller(
        tenant=record.tenant,
        key=record.name,
        weight=record.weight,
        tasks=task_pattern(record.tasks, record.namespace),
        namespace=record.namespace,
    )
    problem = "this key was revoked; ask for another one" if record.revoked is not None else ""
    return Identity(caller, frozenset(record.scopes), record.expires, quotas, problem)
