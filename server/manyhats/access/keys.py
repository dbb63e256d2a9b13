"""Keys and the file that has them: a name, what each may do, and a hash by scrypt, never the key itself.

A key reads `mh_<id>_<secret>`. The id is no secret: it says which record a key is to be compared with.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from manyhats.access.quotas import parse_quota
from manyhats.access.scopes import check_patterns, check_scopes
from manyhats.errors import ConfigurationError, Conflict, InvalidRequest, NotFound
from manyhats.messages import first_error

PREFIX = "mh_"
LONGEST = 200  # characters of a key
_FORMAT = 1  # of the file
_LARGEST = 16 << 20  # bytes of the file
_MAX_KEYS = 10_000
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,47}")
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SECRET_BYTES = 32
# About 30 ms and 16 MiB for each comparison.
_N, _R, _P = 1 << 14, 8, 1
_SCRYPT_MEMORY = 64 << 20  # bytes
_PARAMETERS = re.compile(r"scrypt:([0-9]{1,6}):([0-9]{1,2}):([0-9]{1,2}):[A-Za-z0-9_-]+")
_MOST_MEMORY = 1 << 18  # of a hash in the file, in units of 128 bytes
_MOST_PASSES = 4
_LOCK_WAIT = 10.0  # seconds that a command waits for another one


class KeyRecord(BaseModel):
    """What the file says of one key. Times: unix seconds. `check`: four hex digits of the secret's SHA-256, so that
    guesses are refused without scrypt; they leave 240 of its 256 bits unknown."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")
    name: str
    tenant: str = ""
    scopes: tuple[str, ...]
    tasks: tuple[str, ...] = ()
    namespace: str = ""
    weight: float = Field(1.0, gt=0, le=1000, allow_inf_nan=False)
    requests: str = ""
    tokens: str = ""
    created: float
    expires: float | None = None
    revoked: float | None = None
    check: str = Field(pattern="^[0-9a-f]{4}$")
    salt: str = Field(max_length=100)
    hash: str = Field(max_length=200)

    def verify_values(self) -> None:
        """Raises InvalidRequest for values that no command would have written."""
        if not _NAME.fullmatch(self.name):
            raise InvalidRequest(
                f"'{self.name[:100]}' is no name of a key; names are 1 to 48 small letters, digits and '-', and begin "
                "with a letter or digit",
                param="name",
            )
        if self.tenant and not _TENANT.fullmatch(self.tenant):
            raise InvalidRequest(
                f"'{self.tenant[:100]}' is no name of a tenant; names are 1 to 64 letters, digits, '.', '_' and '-'",
                param="tenant",
            )
        check_scopes(self.scopes)
        check_patterns(self.tasks, self.namespace)
        for field in ("requests", "tokens"):
            if text := getattr(self, field):
                parse_quota(text, field)
        if _parameters(self.hash) is None:
            raise InvalidRequest(
                f"'{self.hash[:24]}' is no hash of a key; it begins with scrypt:N:r:p:, of which N is a power of 2 "
                f"below 2 ** (16 * r), N * r at most {_MOST_MEMORY} and p at most {_MOST_PASSES}",
                param="hash",
            )

    @property
    def state(self) -> str:
        """Whether it is in use: `active`, `expired` or `revoked`."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= time.time() else "active"

    def may_be(self, secret: str) -> bool:
        """Whether it is worth comparing a secret with the hash: of 65536 wrong ones, one is."""
        return hmac.compare_digest(self.check, _check(secret))

    def is_of(self, secret: str) -> bool:
        """Whether the secret is this key's. Takes tens of milliseconds of a CPU."""
        parameters = _parameters(self.hash)
        return parameters is not None and hmac.compare_digest(_scrypt(secret, self.salt, *parameters), self.hash)


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: int = _FORMAT
    keys: tuple[KeyRecord, ...] = Field((), max_length=_MAX_KEYS)


def split_key(text: str) -> tuple[str, str] | None:
    """The id and the secret of a key; None for a text that is none."""
    if not text.startswith(PREFIX) or len(text) > LONGEST:
        return None
    key_id, sign, secret = text[len(PREFIX) :].partition("_")
    return (key_id, secret) if sign and key_id and secret else None


class KeyFile:
    """The file. Written by commands, one at a time; a server reads it while they do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mark(self) -> tuple[int, int, int] | None:
        """Another one after each change of the file; None where there is no file."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigurationError(f"the keys file '{self.path}' cannot be read: {error.strerror}") from None
        return found.st_mtime_ns, found.st_ino, found.st_size

    def read(self) -> tuple[KeyRecord, ...]:
        """All keys, the oldest first; none where there is no file. Raises ConfigurationError for a damaged file."""
        try:
            with self.path.open("rb") as file:
                content = file.read(_LARGEST + 1)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise ConfigurationError(f"the keys file '{self.path}' cannot be read: {error.strerror}") from None
        if len(content) > _LARGEST:
            raise ConfigurationError(f"the keys file '{self.path}' is larger than {_LARGEST} bytes")
        try:
            read = _Content.model_validate_json(content)
            for record in read.keys:
                record.verify_values()
        except ValidationError as error:
            first = first_error(error)
            where = ".".join(map(str, first.location))
            raise ConfigurationError(f"the keys file '{self.path}' is damaged: {where}: {first.message}") from None
        except InvalidRequest as error:
            raise ConfigurationError(f"the keys file '{self.path}' is damaged: {error.message}") from None
        if read.format > _FORMAT:
            raise ConfigurationError(f"the keys file '{self.path}' was written by a newer Manyhats")
        return read.keys

    def create(
        self,
        name: str,
        *,
        scopes: Sequence[str],
        tenant: str = "",
        tasks: Sequence[str] = (),
        namespace: str = "",
        weight: float = 1.0,
        requests: str = "",
        tokens: str = "",
        expires: float | None = None,
    ) -> tuple[KeyRecord, str]:
        """Adds a key; its record and its text, which stands nowhere else.

        `expires`: unix seconds. Raises InvalidRequest for values that are not allowed, and Conflict for a name that a
        key has which is not revoked.
        """
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        salt = _text(secrets.token_bytes(16))
        try:
            record = KeyRecord(
                id=f"{name}-{secrets.token_hex(3)}" if _NAME.fullmatch(name) else "x",
                name=name,
                tenant=tenant,
                scopes=tuple(dict.fromkeys(scopes)),
                tasks=tuple(tasks),
                namespace=namespace,
                weight=weight,
                requests=requests,
                tokens=tokens,
                created=time.time(),
                expires=expires,
                check=_check(secret),
                salt=salt,
                hash=_scrypt(secret, salt),
            )
        except ValidationError as error:
            first = first_error(error)
            raise InvalidRequest(f"{first.field}: {first.message}", param=first.field) from None
        record.verify_values()
        with self._changing() as keys:
            if any(one.name == name and one.revoked is None for one in keys):
                raise Conflict(f"there is a key '{name}' already; revoke it first, or take another name", param="name")
            if len(keys) >= _MAX_KEYS:
                raise Conflict(f"the keys file has {len(keys)} keys, which is the most", param="name")
            keys.append(record)
        return record, f"{PREFIX}{record.id}_{secret}"

    def revoke(self, name: str) -> KeyRecord:
        """Takes a key back, by its name or its id. Raises NotFound where none of that name is in use."""
        with self._changing() as keys:
            for i, one in enumerate(keys):
                if name in (one.name, one.id) and one.revoked is None:
                    keys[i] = one.model_copy(update={"revoked": time.time()})
                    return keys[i]
        known = ", ".join(sorted(one.name for one in keys if one.revoked is None)[:20]) or "none"
        raise NotFound(f"there is no key '{name[:100]}' in use; there are: {known}", param="name")

    @contextmanager
    def _changing(self) -> Iterator[list[KeyRecord]]:
        """The keys, written again at the end. Nobody else writes meanwhile."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_name(f"{self.path.name}.lock"), timeout=_LOCK_WAIT, mode=0o600):
                before = self.read()
                keys = list(before)
                yield keys
                if tuple(keys) != before:
                    self._write(keys)
        except TimeoutError:
            raise ConfigurationError(f"another command is writing the keys file '{self.path}'") from None
        except OSError as error:
            raise ConfigurationError(f"the keys file '{self.path}' cannot be written: {error.strerror}") from None

    def _write(self, keys: Sequence[KeyRecord]) -> None:
        """Beside it, synced, and renamed: whoever reads sees the file before or after."""
        content = _Content(keys=tuple(keys)).model_dump(mode="json", exclude_defaults=True)
        content["format"] = _FORMAT
        beside = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
        try:
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                json.dump(content, file, indent=1)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self.path)
        finally:
            with suppress(FileNotFoundError):
                beside.unlink()
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _parameters(text: str) -> tuple[int, int, int] | None:
    """N, r and p of a hash; None where scrypt does not take them, or they would take too long or too much memory."""
    found = _PARAMETERS.fullmatch(text)
    if found is None:
        return None
    n, r, p = map(int, found.groups())
    fits = n > 1 and n.bit_count() == 1 and n < 1 << 16 * r and n * r <= _MOST_MEMORY and 1 <= p <= _MOST_PASSES
    return (n, r, p) if fits else None


def _check(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()[:4]


def _scrypt(secret: str, salt: str, n: int = _N, r: int = _R, p: int = _P) -> str:
    made = hashlib.scrypt(secret.encode(), salt=salt.encode(), n=n, r=r, p=p, maxmem=_SCRYPT_MEMORY)
    return f"scrypt:{n}:{r}:{p}:{_text(made)}"


def _text(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")
