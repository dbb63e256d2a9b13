"""Everything that Manyhats raises on purpose.

    ManyhatsError
    ├── InvalidRequest          a value that is not allowed; says which would be
    │   ├── InputTooLong        more tokens than the task takes
    │   └── WrongUsage          a command's words that it cannot do anything with
    ├── NotFound                no such task, version or alias
    ├── Conflict                the request does not fit the present state
    ├── TooLarge                over a limit on size or count
    │   └── HeadTooLarge        the request's line and headers are too long
    ├── UnsupportedFormat       files that are not safetensors, or not an adapter
    ├── AdapterMismatch         a well-formed adapter that does not fit this backbone
    ├── AuthenticationRequired  no key, or an unknown one
    ├── PermissionDenied        a key that may not do this
    ├── UnknownHost             the request is for a host name that is not this server's
    ├── SlowRequest             the request did not come in time
    ├── Overloaded              a queue is full; try again later
    ├── NotReady                starting or draining
    │   └── StoreUnavailable    the store of the adapters' files does not answer; resident adapters do
    ├── EngineFailure           the model failed on a request that was in order
    │   ├── AdapterFailure      because of the task's own adapter
    │   └── OutOfMemory         a request alone takes more memory than there is
    ├── AdapterQuarantined      an adapter that failed so often that it is not asked any more
    ├── DeadlineExceeded        no answer within the time allowed
    ├── SourceFailed            a hub or an object store cannot be read, or sent what it did not list
    ├── StorageFull             no space on the store's disk
    ├── DamagedStore            what the store holds is not what was put into it
    └── ConfigurationError      the operator's settings cannot work
        ├── WrongSetting        a setting that is unknown or has no such value
        ├── UnsupportedVersion  a library of a version that the answers cannot be trusted with
        ├── UnsupportedAttention an argument of a model's attention that the packed pass does not follow
        └── WrongAnswers        the packed pass and the unmodified model disagree

The web layer maps each to a status code (`manyhats.api.errors`); nothing here knows HTTP.
"""

from __future__ import annotations


class ManyhatsError(Exception):
    """Base class. `param` names the field or file at fault, where there is one."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidRequest(ManyhatsError):
    """A value that is not allowed."""


class InputTooLong(InvalidRequest):
    """An input has more tokens than the task takes."""


class WrongUsage(InvalidRequest):
    """A command's words that it cannot do anything with: a name that is none, a path that is not there."""


class NotFound(ManyhatsError):
    """No such task, version or alias."""


class Conflict(ManyhatsError):
    """The request does not fit the present state."""


class TooLarge(ManyhatsError):
    """Over a limit on size or count."""


class HeadTooLarge(TooLarge):
    """The request's line and headers are too long."""


class UnsupportedFormat(ManyhatsError):
    """Files that are not safetensors, or not an adapter; a body whose type is not JSON."""


class AdapterMismatch(ManyhatsError):
    """A well-formed adapter that does not fit this backbone."""


class AuthenticationRequired(ManyhatsError):
    """No key, or an unknown one."""


class PermissionDenied(ManyhatsError):
    """A key that may not do this."""


class UnknownHost(ManyhatsError):
    """The request is for a host name that is not this server's."""


class SlowRequest(ManyhatsError):
    """The request did not come in time."""


class Overloaded(ManyhatsError):
    """A queue is full. `retry_after`: seconds until it is worth trying again."""

    def __init__(self, message: str, *, retry_after: float = 1.0, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.retry_after = retry_after


class NotReady(ManyhatsError):
    """Starting or draining. `retry_after`: seconds until it is worth trying again."""

    retry_after = 1.0


class StoreUnavailable(NotReady):
    """The store of the adapters' files does not answer, or has no room here. Resident adapters do answer."""

    def __init__(self, message: str, *, retry_after: float = 1.0, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.retry_after = retry_after


class EngineFailure(ManyhatsError):
    """The model failed on a request that was in order."""


class AdapterFailure(EngineFailure):
    """A task's own adapter failed on a request: it raised, or its values are not finite."""


class OutOfMemory(EngineFailure):
    """A request takes more memory than there is, with no other beside it."""


class AdapterQuarantined(ManyhatsError):
    """An adapter that failed so often that it is not asked any more."""


class DeadlineExceeded(ManyhatsError):
    """No answer within the time allowed."""


class SourceFailed(ManyhatsError):
    """A hub or an object store cannot be read, redirects where it may not, or sent something else than it listed."""


class StorageFull(ManyhatsError):
    """No space on the store's disk."""


class DamagedStore(ManyhatsError):
    """What the store holds is not what was put into it: files that changed or went, an alias to no version."""


class ConfigurationError(ManyhatsError):
    """The operator's settings cannot work."""


class WrongSetting(ConfigurationError):
    """A setting that is unknown or has no such value."""


class UnsupportedVersion(ConfigurationError, ImportError):
    """A library of a version that the answers cannot be trusted with. Raised when `manyhats.backbone` is imported."""


class UnsupportedAttention(ConfigurationError):
    """A model hands its attention an argument that the packed pass does not follow."""


class WrongAnswers(ConfigurationError):
    """The packed pass and the unmodified model disagree: nothing may be answered."""
