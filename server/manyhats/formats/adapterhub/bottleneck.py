"""Bottleneck adapters of AdapterHub: `BnConfig`, compacters and invertible adapters among them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from manyhats.backbone.sites import EMBEDDED
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.formats.adapterhub.names import CONFIG
from manyhats.formats.adapterhub.places import places_of
from manyhats.messages import short_repr
from manyhats.methods.bottleneck import BottleneckConfig
from manyhats.methods.component import Component
from manyhats.methods.invertible import InvertibleConfig
from manyhats.methods.kronecker import MOST_VALUES, kronecker_sum
from manyhats.methods.libraries.fields import flag, reject_fields, validate
from manyhats.methods.libraries.unclaimed import SiteTensors, UnclaimedTensors, claim_leaves

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

# Fields of BnConfig that concern training alone, or that the tensors' names and shapes already say.
_SILENT = {
    "mh_adapter", "output_adapter", "reduction_factor", "leave_out", "dropout", "stochastic_depth",
    "init_weights", "init_weights_seed", "inv_adapter_reduction_factor", "factorized_phm_W",
    "factorized_phm_rule", "hypercomplex_nonlinearity", "learn_phm", "phm_bias", "phm_c_init", "phm_dim",
    "phm_init_range", "phm_rank", "shared_W_phm", "shared_phm_rule", "scaling", "architecture", "phm_layer",
    "inv_adapter",
}  # fmt: skip

_LEAVES = {
    f"{theirs}.{kind}": f"{ours}.{kind}"
    for theirs, ours in (
        ("adapter_down.0", "down.0"),
        ("adapter_down.1", "down.1"),
        ("adapter_up", "up"),
        ("adapter_norm_before", "norm_before"),
        ("adapter_norm_after", "norm_after"),
        ("gate", "gate"),
    )
    for kind in ("weight", "bias", "W", "W_left", "W_right", "b")
} | {"scaling": "scaling"}

# Of the activations' names before `adapters` 1.0, two meant something else.
_LEGACY_ACTIVATIONS = {"gelu": "gelu_new", "gelu_orig": "gelu"}


def bottleneck_parts(
    unclaimed: UnclaimedTensors, inner: Mapping[str, Any], name: str, backbone: Backbone, *, legacy: bool
) -> list[Component[Any]]:
    """Takes the tensors of a bottleneck adapter; an invertible one stands before it."""
    sites = _sites(unclaimed, name, backbone)
    if not sites:
        raise AdapterMismatch(f"the file has no weights of a bottleneck adapter called '{name}'", param="name")
    _expand_phm(unclaimed, inner, sites, name, backbone)
    config = _config(inner, sites, legacy=legacy)
    parts = [Component("bottleneck", config, sites)]
    inverse = _invertible(unclaimed, inner, name, backbone, config.non_linearity)
    return [inverse, *parts] if inverse else parts


def _config(inner: Mapping[str, Any], sites: Mapping[str, Mapping[str, Tensor]], *, legacy: bool) -> BottleneckConfig:
    fields = {name: value for name, value in inner.items() if name in BottleneckConfig.model_fields}
    fields.pop("epsilon", None)  # always torch's default there
    reject_fields(inner, _SILENT | fields.keys())
    learned = inner.get("scaling") in ("learned", "channel")  # then it is a tensor at every site
    for site, leaves in sites.items():
        if ("scaling" in leaves) != learned:
            found = "no" if learned else "a"
            raise AdapterMismatch(
                f"the scaling is {short_repr(inner.get('scaling'))}, but {site} has {found} tensor for it",
                param="scaling",
            )
    if learned:
        fields.pop("scaling")
    if legacy and isinstance(fields.get("non_linearity"), str):
        given = fields["non_linearity"].lower()
        fields["non_linearity"] = _LEGACY_ACTIVATIONS.get(given, given)
    return validate(BottleneckConfig, fields, CONFIG, "config")


def places(backbone: Backbone) -> dict[str, str]:
    """Our residual sites by the modules that AdapterHub's keys put an adapter into."""
    sublayers = places_of(backbone.config.model_type)
    if sublayers is None:
        raise AdapterMismatch(
            f"AdapterHub's adapters for {backbone.config.model_type} models are not supported", param="model_type"
        )
    return {
        path.format(i=layer): f"layers.{layer}.{name}"
        for layer in range(backbone.layers)
        for path, name in zip(sublayers, ("attention", "ffn"), strict=True)
    }


def place_of(module: str, name: str, backbone: Backbone, known: Mapping[str, str]) -> str:
    """Our residual site for a key's module. Raises AdapterMismatch where the backbone has none."""
    site = known.get(backbone.bare_name(module))
    if site is None:
        raise AdapterMismatch(
            f"the adapter has weights at '{module}', but the backbone {backbone.name} has no such place", param=name
        )
    return site


def _sites(unclaimed: UnclaimedTensors, adapter_name: str, backbone: Backbone) -> SiteTensors:
    known = places(backbone)
    separator = re.compile(
        rf"\.(?:adapters|(?:attention|layer)_text_(?:task|lang)_adapters)\.{re.escape(adapter_name)}\."
    )

    def place(name: str) -> tuple[str, str] | None:
        found = separator.search(name)
        leaf = _LEAVES.get(name[found.end() :]) if found else None
        if found is None or leaf is None:
            return None
        return place_of(name[: found.start()], name, backbone, known), leaf

    sites = claim_leaves(unclaimed, place)
    for site, leaves in sites.items():
        _name_down(leaves, site)
    return sites


def _name_down(leaves: dict[str, Tensor], site: str) -> None:
    """With `ln_before` the first layer norm stands twice: by its name, and before the down-projection."""
    place = "down.1" if any(leaf.startswith("down.1.") for leaf in leaves) else "down.0"
    for kind in ("weight", "bias", "W", "W_left", "W_right", "b"):
        first, norm = leaves.get(f"down.0.{kind}"), leaves.get(f"norm_before.{kind}")
        if place == "down.1" and first is not None:
            if norm is None or not torch.equal(first, norm):
                raise InvalidRequest(f"adapter_down.0.{kind} and adapter_norm_before.{kind} of {site} differ")
            del leaves[f"down.0.{kind}"]
        if f"{place}.{kind}" in leaves:
            leaves[f"down.{kind}"] = leaves.pop(f"{place}.{kind}")


# ---- compacter


def _expand_phm(
    unclaimed: UnclaimedTensors,
    inner: Mapping[str, Any],
    sites: dict[str, dict[str, Tensor]],
    name: str,
    backbone: Backbone,
) -> None:
    """Makes plain matrices of a compacter's."""
    if not flag(inner, "phm_layer"):
        return
    shared = _shared(unclaimed, name)
    for site, leaves in sites.items():
        for layer in ("down", "up"):
            pieces = {
                leaf: leaves.pop(f"{layer}.{leaf}") if f"{layer}.{leaf}" in leaves else shared.own(leaf)
                for leaf in ("W", "W_left", "W_right", "phm_rule")
            }
            rule = pieces["phm_rule"]
            if rule is None:
                raise AdapterMismatch(f"the compacter has no 'phm_rule' for {site}", param="phm_rule")
            matrix = _phm_matrix(
                rule, pieces["W"], pieces["W_left"], pieces["W_right"], f"{site}.{layer}", layer, shared
            )
            leaves[f"{layer}.weight"] = matrix.T.contiguous()
            bias = leaves.pop(f"{layer}.b", None)
            leaves[f"{layer}.bias"] = torch.zeros(matrix.shape[1]) if bias is None else bias
    unused = sorted(shared.keys() - shared.used)
    if unused:
        raise InvalidRequest(f"'{unused[0]}' among the compacter's shared parameters is not used", param=unused[0])


class _Shared(dict[str, Tensor]):
    """What all layers of a compacter have in common, and what of it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.used: set[str] = set()

    def own(self, leaf: str) -> Tensor | None:
        """The tensor of that name, where there is one."""
        self.used.add(leaf)
        return self.get(leaf)


def _shared(unclaimed: UnclaimedTensors, name: str) -> _Shared:
    """Takes `shared_parameters.NAME.*`."""
    found = _Shared()
    for key in unclaimed.names():
        _, separator, leaf = key.partition(f"shared_parameters.{name}.")
        if separator:
            found[leaf] = unclaimed.claim(key)
    return found


def _phm_matrix(
    rule: Tensor,
    whole: Tensor | None,
    left: Tensor | None,
    right: Tensor | None,
    place: str,
    layer: str,
    shared: _Shared,
) -> Tensor:
    """(in, out), from `rule` (n, n, n) and `whole` (n, in/n, out/n), or its factors `left` and `right`."""
    if whole is None and left is None:
        left, right = shared.own(f"W_{layer}_left"), shared.own(f"W_{layer}_right")
        whole = shared.own(f"W_{layer}")
    if whole is None:
        if left is None or right is None:
            raise AdapterMismatch(f"the compacter has no weights for {place}", param=place)
        if left.dim() != 3 or right.dim() != 3 or left.shape[::2] != right.shape[:2]:
            raise AdapterMismatch(
                f"the factors of {place} have shapes {list(left.shape)} and {list(right.shape)}", param=place
            )
        _check_size(rule.shape[0], left.shape[1], right.shape[2], place)
        whole = torch.bmm(left.float(), right.float())
    if rule.dim() != 3 or whole.dim() != 3 or rule.shape[0] != whole.shape[0]:
        raise AdapterMismatch(f"phm_rule {list(rule.shape)} does not fit the weights of {place}", param="phm_rule")
    _check_size(rule.shape[0], whole.shape[1], whole.shape[2], place)
    return kronecker_sum(rule.float(), whole.float())


def _check_size(pieces: int, rows: int, columns: int, place: str) -> None:
    """A small file can stand for a very large matrix."""
    values = pieces * rows * pieces * columns
    if values > MOST_VALUES:
        raise AdapterMismatch(f"the weights of {place} would have {values} values; at most {MOST_VALUES}", param=place)


# ---- invertible


def _invertible(
    unclaimed: UnclaimedTensors, inner: Mapping[str, Any], name: str, backbone: Backbone, non_linearity: str
) -> Component[Any] | None:
    kind = inner.get("inv_adapter")
    if kind is None:
        return None
    if kind != "nice":
        raise AdapterMismatch(f"inv_adapter {short_repr(kind)} is not supported; 'nice' is", param="inv_adapter")
    prefix = re.compile(rf"(?:.+\.)?(?:invertible_adapters|invertible_lang_adapters)\.{re.escape(name)}\.")
    leaves: dict[str, Tensor] = {}
    for key in unclaimed.names():
        found = prefix.match(key)
        parts = key[found.end() :].split(".") if found else []
        if len(parts) != 3 or parts[0] not in "FG" or parts[1] not in ("0", "2"):
            continue
        leaves[f"{parts[0]}.{'down' if parts[1] == '0' else 'up'}.{parts[2]}"] = unclaimed.claim(key)
    return Component("invertible", InvertibleConfig(non_linearity=non_linearity), {EMBEDDED: leaves})
