"""Parameters of a fine-tuned model as a component, for differences that no method describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manyhats.methods.component import Component, StateDict
from manyhats.methods.full_parameters import Parameters, ParametersConfig


def changed_parameters(sites: Mapping[str, StateDict], label: str) -> Component[Any]:
    """Parameters that replace the backbone's. `sites`: by site, `weight` or `bias`, in the backbone's layout.
    `label`: the method's name in answers."""
    return Component(Parameters.name, ParametersConfig(), sites, label=label)
