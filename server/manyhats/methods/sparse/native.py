"""`manyhats-sparse/1`: a few values of parameters, or full parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from manyhats.methods.component import Component
from manyhats.methods.full_parameters.config import NAME as PARAMETERS
from manyhats.methods.full_parameters.config import ParametersConfig
from manyhats.methods.libraries.native import NativeFields, NativeFiles, NativeFormat
from manyhats.methods.libraries.unclaimed import UnclaimedTensors, claim_leaves
from manyhats.methods.sites import parameter_site
from manyhats.methods.sparse.config import NAME, SparseConfig

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class SparseFields(NativeFields):
    """`mode`: `add`: to the backbone's values; `replace` them; `replace_dense`: full parameters."""

    mode: Literal["add", "replace", "replace_dense"] = "add"


def _read(unclaimed: UnclaimedTensors, fields: SparseFields, backbone: Backbone) -> Component[Any]:
    """Claims `<parameter>.indices` and `<parameter>.values`; or with `replace_dense` the full `<parameter>`."""
    dense = fields.mode == "replace_dense"

    def place_of(name: str) -> tuple[str, str] | None:
        parameter, _, which = (name, "", "") if dense else name.rpartition(".")
        if not dense and which not in ("indices", "values"):
            return None
        module, _, leaf = parameter.rpartition(".")
        return parameter_site(backbone, module).name, leaf if dense else f"{leaf}.{which}"

    sites = claim_leaves(unclaimed, place_of)
    if fields.mode == "replace_dense":
        return Component(PARAMETERS, ParametersConfig(), sites, label=NAME)
    return Component(NAME, SparseConfig(mode=fields.mode), sites)


def _write(component: Component[Any]) -> NativeFiles | None:
    """Full parameters are written so where their label is a sparse difference's, as after training."""
    config = component.config
    if isinstance(config, SparseConfig) and component.label in (None, NAME):
        fields = SparseFields(mode=config.mode)
    elif isinstance(config, ParametersConfig) and component.label == NAME:
        fields = SparseFields(mode="replace_dense")
    else:
        return None
    tensors = {f"{site}.{leaf}": t for site, leaves in component.tensors.items() for leaf, t in leaves.items()}
    return NativeFiles(fields, tensors)


NATIVE = NativeFormat("manyhats-sparse/1", SparseFields, _read, _write)
