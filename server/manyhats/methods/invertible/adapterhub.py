"""Invertible adapters in AdapterHub's `BnConfig`: its field `inv_adapter`, with a bottleneck adapter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from manyhats.backbone.sites import EMBEDDED
from manyhats.errors import AdapterMismatch
from manyhats.messages import short_repr
from manyhats.methods.component import Component
from manyhats.methods.invertible.config import NAME, InvertibleConfig
from manyhats.methods.libraries.unclaimed import UnclaimedTensors


def claim_invertible(
    unclaimed: UnclaimedTensors, inner: Mapping[str, Any], name: str, non_linearity: str
) -> Component[InvertibleConfig] | None:
    """The invertible adapter of a config; None where it has none. `non_linearity`: that of the bottleneck adapter.

    Raises AdapterMismatch for types other than NICE.
    """
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
    return Component(NAME, InvertibleConfig(non_linearity=non_linearity), {EMBEDDED: leaves})
