"""Bottleneck adapters as AdapterHub's `BnConfig` has them, compacters among them, read and written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.messages import short_repr
from manyhats.methods.bottleneck.compacter import MAX_VALUES, kronecker_sum
from manyhats.methods.bottleneck.config import NAME, BottleneckConfig
from manyhats.methods.component import Component
from manyhats.methods.invertible.adapterhub import claim_invertible
from manyhats.methods.libraries.adapterhub import AdapterHubArchitecture, AdapterHubFile, AdapterHubTensors
from manyhats.methods.libraries.adapterhub_files import CONFIG
from manyhats.methods.libraries.adapterhub_modules import adapter_modules_of, residual_site, residual_sites
from manyhats.methods.libraries.fields import flag, reject_fields, validate
from manyhats.methods.libraries.unclaimed import SiteTensors, UnclaimedTensors, claim_leaves

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

# Fields of BnConfig that matter only in training, or that follow from the tensors' names and shapes.
_IGNORED_FIELDS = {
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

# Two activation names had another meaning before `adapters` 1.0.
_LEGACY_ACTIVATIONS = {"gelu": "gelu_new", "gelu_orig": "gelu"}

_PFEIFFER = {"mh_adapter": False, "output_adapter": True, "non_linearity": "relu", "original_ln_before": True}
_HOULSBY = {"mh_adapter": True, "output_adapter": True, "non_linearity": "swish", "original_ln_before": False}
_PARALLEL = _PFEIFFER | {"original_ln_before": False, "is_parallel": True, "scaling": 4.0}
_INVERTIBLE = {"inv_adapter": "nice"}
_PRESETS: dict[str, dict[str, Any]] = {
    "pfeiffer": _PFEIFFER,
    "houlsby": _HOULSBY,
    "parallel": _PARALLEL,
    "seq_bn": _PFEIFFER,
    "double_seq_bn": _HOULSBY,
    "par_bn": _PARALLEL,
    "pfeiffer+inv": _PFEIFFER | _INVERTIBLE,
    "seq_bn_inv": _PFEIFFER | _INVERTIBLE,
    "houlsby+inv": _HOULSBY | _INVERTIBLE,
    "double_seq_bn_inv": _HOULSBY | _INVERTIBLE,
}


def _read(
    unclaimed: UnclaimedTensors, inner: Mapping[str, Any], file: AdapterHubFile, backbone: Backbone
) -> list[Component[Any]]:
    """Claims the tensors of a bottleneck adapter, and of the invertible adapter before it, if any."""
    sites = _claim_sites(unclaimed, file.name, backbone)
    if not sites:
        raise AdapterMismatch(f"the file has no weights of a bottleneck adapter called '{file.name}'", param="name")
    _expand_phm(unclaimed, inner, sites, file.name)
    config = _config(inner, sites, legacy=file.version is None)
    invertible = claim_invertible(unclaimed, inner, file.name, config.non_linearity)
    own = Component(NAME, config, sites)
    return [own] if invertible is None else [invertible, own]


def _config(inner: Mapping[str, Any], sites: Mapping[str, Mapping[str, Tensor]], *, legacy: bool) -> BottleneckConfig:
    fields = {name: value for name, value in inner.items() if name in BottleneckConfig.model_fields}
    fields.pop("epsilon", None)  # the library always uses torch's default
    reject_fields(inner, _IGNORED_FIELDS | fields.keys())
    learned = inner.get("scaling") in ("learned", "channel")  # stored as a tensor at every site
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


def _claim_sites(unclaimed: UnclaimedTensors, adapter_name: str, backbone: Backbone) -> SiteTensors:
    known = residual_sites(backbone)
    separator = re.compile(
        rf"\.(?:adapters|(?:attention|layer)_text_(?:task|lang)_adapters)\.{re.escape(adapter_name)}\."
    )

    def place_of(key: str) -> tuple[str, str] | None:
        found = separator.search(key)
        leaf = _LEAVES.get(key[found.end() :]) if found else None
        if found is None or leaf is None:
            return None
        return residual_site(key[: found.start()], key, backbone, known), leaf

    sites = claim_leaves(unclaimed, place_of)
    for site, leaves in sites.items():
        _name_down(leaves, site)
    return sites


def _name_down(leaves: dict[str, Tensor], site: str) -> None:
    """With `ln_before` the first layer norm is stored twice: by its name, and before the down-projection."""
    module = "down.1" if any(leaf.startswith("down.1.") for leaf in leaves) else "down.0"
    for kind in ("weight", "bias", "W", "W_left", "W_right", "b"):
        first, norm = leaves.get(f"down.0.{kind}"), leaves.get(f"norm_before.{kind}")
        if module == "down.1" and first is not None:
            if norm is None or not torch.equal(first, norm):
                raise InvalidRequest(f"adapter_down.0.{kind} and adapter_norm_before.{kind} of {site} differ")
            del leaves[f"down.0.{kind}"]
        if f"{module}.{kind}" in leaves:
            leaves[f"down.{kind}"] = leaves.pop(f"{module}.{kind}")


# ---- compacter


def _expand_phm(
    unclaimed: UnclaimedTensors, inner: Mapping[str, Any], sites: dict[str, dict[str, Tensor]], name: str
) -> None:
    """Multiplies a compacter's factors out into matrices."""
    if not flag(inner, "phm_layer"):
        return
    shared = _claim_shared(unclaimed, name)
    for site, leaves in sites.items():
        for layer in ("down", "up"):
            factors = {
                leaf: leaves.pop(f"{layer}.{leaf}") if f"{layer}.{leaf}" in leaves else shared.claim(leaf)
                for leaf in ("W", "W_left", "W_right", "phm_rule")
            }
            rule = factors["phm_rule"]
            if rule is None:
                raise AdapterMismatch(f"the compacter has no 'phm_rule' for {site}", param="phm_rule")
            matrix = _phm_matrix(
                rule, factors["W"], factors["W_left"], factors["W_right"], f"{site}.{layer}", layer, shared
            )
            leaves[f"{layer}.weight"] = matrix.T.contiguous()
            bias = leaves.pop(f"{layer}.b", None)
            leaves[f"{layer}.bias"] = torch.zeros(matrix.shape[1]) if bias is None else bias
    unused = sorted(shared.keys() - shared.claimed)
    if unused:
        raise InvalidRequest(f"'{unused[0]}' among the compacter's shared parameters is not used", param=unused[0])


class _Shared(dict[str, Tensor]):
    """The tensors that all layers of a compacter share; records which of them a layer has claimed."""

    def __init__(self) -> None:
        super().__init__()
        self.claimed: set[str] = set()

    def claim(self, leaf: str) -> Tensor | None:
        """The tensor of that name; None where there is none."""
        self.claimed.add(leaf)
        return self.get(leaf)


def _claim_shared(unclaimed: UnclaimedTensors, name: str) -> _Shared:
    """Claims `shared_parameters.NAME.*`."""
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
    """(in, out), from `rule` (n, n, n) and `whole` (n, in/n, out/n), or its factors `left` and `right`.

    `place`: the site and the layer, for messages.
    """
    if whole is None and left is None:
        left, right = shared.claim(f"W_{layer}_left"), shared.claim(f"W_{layer}_right")
        whole = shared.claim(f"W_{layer}")
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


def _check_size(phm_dim: int, rows: int, columns: int, place: str) -> None:
    """Raises AdapterMismatch for too large a matrix: a small file can describe a very large one."""
    values = phm_dim * rows * phm_dim * columns
    if values > MAX_VALUES:
        raise AdapterMismatch(f"the weights of {place} would have {values} values; at most {MAX_VALUES}", param=place)


# ---- writing


def reduction_factor(hidden: int, width: int) -> float:
    """The factor from which `adapters` computes this width, by `int(hidden // factor)`."""
    exact = hidden / width
    return exact if hidden // exact == width else hidden / (width + 0.5)


def _leaf_name(leaf: str, config: BottleneckConfig, *, compacter: bool) -> str:
    """AdapterHub's name for one of our tensors."""
    if leaf == "scaling" or leaf.startswith("gate."):
        return leaf
    module, _, kind = leaf.partition(".")
    if compacter:
        kind = {"left": "W_left", "right": "W_right", "bias": "b"}[kind]
    return f"adapter_{module}.{int(config.ln_before)}.{kind}" if module == "down" else f"adapter_{module}.{kind}"


def _write(component: Component[BottleneckConfig], name: str, backbone: Backbone) -> AdapterHubTensors:
    config = component.config
    modules = adapter_modules_of(backbone.config.model_type)
    if modules is None:
        raise InvalidRequest(f"AdapterHub has no names for adapters of {backbone.config.model_type} models")
    tensors: dict[str, Tensor] = {}
    widths: dict[str, int] = {}  # by layer
    learned = ""
    rule: Tensor | None = None
    for site, leaves in component.tensors.items():
        _, layer, sublayer = site.split(".")
        module = modules[("attention", "ffn").index(sublayer)].format(i=layer)
        widths[layer] = leaves["down.bias"].shape[0]
        rule = leaves.get("rule")
        named = {
            _leaf_name(leaf, config, compacter=rule is not None): tensor
            for leaf, tensor in leaves.items()
            if leaf != "rule"
        }
        if config.ln_before:  # stored twice, as in the library's module tree
            named |= {f"adapter_down.0.{kind}": leaves[f"norm_before.{kind}"].clone() for kind in ("weight", "bias")}
        if "scaling" in leaves:
            learned = "learned" if leaves["scaling"].numel() == 1 else "channel"
        for theirs, tensor in named.items():
            tensors[f"{backbone.prefix}.{module}.adapters.{name}.{theirs}"] = tensor
    factors = {layer: reduction_factor(backbone.hidden, width) for layer, width in widths.items()}
    same = len(set(factors.values())) == 1
    inner = config.model_dump(exclude={"epsilon"}) | {
        "mh_adapter": any(site.endswith(".attention") for site in component.tensors),
        "output_adapter": any(site.endswith(".ffn") for site in component.tensors),
        "reduction_factor": next(iter(factors.values())) if same else factors | {"default": 1},
        "leave_out": [i for i in range(backbone.layers) if str(i) not in widths],
    }
    if learned:
        inner["scaling"] = learned
    if rule is not None:
        tensors[f"{backbone.prefix}.shared_parameters.{name}.phm_rule"] = rule
        inner |= {
            "phm_layer": True,
            "phm_dim": len(rule),
            "phm_rank": 1,
            "phm_bias": True,
            "phm_c_init": "normal",
            "phm_init_range": 0.0001,
            "learn_phm": True,
            "factorized_phm_W": True,
            "factorized_phm_rule": False,
            "shared_phm_rule": True,
            "shared_W_phm": False,
            "hypercomplex_nonlinearity": "glorot-uniform",
        }
    return AdapterHubTensors(inner, tensors)


ARCHITECTURE = AdapterHubArchitecture(
    description="bottleneck adapters",
    matches=lambda inner: "mh_adapter" in inner,
    read=_read,
    write=_write,
    presets=_PRESETS,
)
