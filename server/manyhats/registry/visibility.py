"""Which tasks are there for whoever sends the request that is being answered: to its key, others do not exist."""

from __future__ import annotations

from manyhats.core.call import CURRENT_CALL
from manyhats.errors import NotFound, PermissionDenied
from manyhats.registry.names import BASE


def sees(task: str) -> bool:
    """Whether a task of that name is there for the caller, or would be."""
    return CURRENT_CALL.get().caller.sees(task)


def sees_all() -> bool:
    """Whether all tasks are there for the caller."""
    return CURRENT_CALL.get().caller.tasks is None


def check_base() -> None:
    """Raises NotFound where the bare backbone is not there for the caller."""
    if not sees(BASE):
        raise NotFound(f"The task `{BASE}` does not exist.", param="task")


def check_may_write(task: str) -> None:
    """Raises PermissionDenied for a task that the caller's key may not make: whether there is one or not."""
    caller = CURRENT_CALL.get().caller
    if caller.sees(task):
        return
    where = f"begin with '{caller.namespace}'" if caller.namespace else "fit its patterns"
    raise PermissionDenied(f"this key makes tasks whose names {where}, and `{task[:200]}` does not", param="task")
