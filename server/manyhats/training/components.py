"""The components of one adapter in training, of one or several methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from manyhats.errors import WrongUsage
from manyhats.methods.base import BoundComponent, Method, Trainable
from manyhats.methods.component import Component
from manyhats.methods.recipe import Member, Recipe
from manyhats.methods.registry import METHODS

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class TrainableComponents(nn.Module):
    """New weights of a recipe's methods. A method with several stages must be the only one."""

    def __init__(
        self, backbone: Backbone, recipe: Recipe, options: Mapping[str, Any], generator: torch.Generator
    ) -> None:
        """Raises WrongUsage for an unknown option. With several methods, options are named METHOD.OPTION."""
        super().__init__()
        given = _options_of_members(recipe.members, options)
        self.methods = [METHODS[member.method] for member in recipe.members]
        self._rates = [member.rate for member in recipe.members]
        # The attribute's name is in the keys of checkpoints, which must be readable after an update.
        self.parts = nn.ModuleList(
            METHODS[member.method].trainable(backbone, {**member.options, **own}, generator)
            for member, own in zip(recipe.members, given, strict=True)
        )

    def _each(self) -> list[Trainable]:
        return list(self.parts)  # type: ignore[arg-type]

    @property
    def stages(self) -> int:
        """The number of stages."""
        return max(component.stages for component in self._each())

    def rates(self) -> list[tuple[float, nn.Parameter]]:
        """The parameters of this stage, each with a factor of the learning rate."""
        found = []
        for component, rate in zip(self._each(), self._rates, strict=True):
            for name, parameter in component.named_parameters():
                if parameter.requires_grad:
                    found.append((rate * component.rates.get(name.split(".")[0], 1.0), parameter))
        return found

    def bound(self) -> tuple[tuple[Method[Any], BoundComponent], ...]:
        """The components with their current parameters, with gradients; called once a step."""
        return tuple((method, component.bound()) for method, component in zip(self.methods, self._each(), strict=True))

    def saved(self) -> tuple[Component[Any], ...]:
        """The components to be saved, in host memory."""
        return tuple(component.component() for component in self._each())

    def penalty(self) -> Tensor | None:
        """A term added to the loss of every step."""
        some = [penalty for component in self._each() if (penalty := component.penalty()) is not None]
        return torch.stack(some).sum() if some else None

    def advance(self) -> None:
        """Begins the next stage."""
        (component,) = self._each()
        component.advance()

    def restore(self, stage: int, state: Mapping[str, Tensor]) -> None:
        """Loads the `state_dict` of a stage, counted from 0."""
        for index, component in enumerate(self._each()):
            start = f"parts.{index}."
            component.restore(stage, {n.removeprefix(start): t for n, t in state.items() if n.startswith(start)})


def _options_of_members(members: tuple[Member, ...], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each method's own options."""
    if len(members) == 1:
        return [dict(options)]
    given: dict[str, dict[str, Any]] = {member.method: {} for member in members}
    for name, value in options.items():
        method, dot, own = name.partition(".")
        if not dot or method not in given:
            raise WrongUsage(
                f"there is no option '{name}': this recipe has several methods, {', '.join(given)}; "
                f"write {next(iter(given))}.{own or name}",
                param=name,
            )
        given[method][own] = value
    return list(given.values())
