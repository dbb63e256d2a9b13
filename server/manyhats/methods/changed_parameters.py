"""The changed parameters of a fine-tuned model as a component, for whoever has them and no method of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manyhats.methods.component import Component, StateDict
from manyhats.methods.full_parameters import Parameters, ParametersConfig


def changed_parameters(sites: Mapping[str, StateDict], label: str) -> Component[Any]:
    """Parameters that stand in place of the backbone's. `sites`: by site, `weight` or `bias`, in the backbone's layout.
    `label`: what the user is shown as the method."""
    return Component(Parameters.name, ParametersConfig(), sites, label=label)
