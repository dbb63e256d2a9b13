"""What the name of a model means to those who call a task one."""

from __future__ import annotations

from manyhats.errors import NotFound
from manyhats.registry.names import BASE
from manyhats.runtime import Runtime


def task_of(runtime: Runtime, model: str) -> str:
    """The task that a model's name means: its own, or after the backbone's; `base` for the backbone itself."""
    for bare in (runtime.backbone.name, BASE):
        if model == bare:
            return BASE
        if model.startswith(f"{bare}:"):
            return model[len(bare) + 1 :]
    return model


def unknown_model(model: str) -> NotFound:
    """OpenAI's words for a model that is not there."""
    return NotFound(f"The model `{model}` does not exist.", param="model")
