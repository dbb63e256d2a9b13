"""What replicas share, and what each has for its own, of the settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from pydantic import SecretStr

from manyhats._version import __version__
from manyhats.access.control import keys_file
from manyhats.scale.places import Place
from manyhats.settings import Settings


def shares(settings: Settings) -> bool:
    """Whether the replicas of these settings share a database, so that a change reaches all."""
    return bool(getattr(settings, "database_url", ""))


def own_settings(settings: Settings, place: Place) -> Settings:
    """The settings of one replica: those of all, with its own folder. Keys are those of all."""
    return settings.model_copy(update={"store": place.folder, "keys_file": keys_file(settings)})


def version_of(values: Mapping[str, Any]) -> str:
    """What tells a deployment from another: where neither `values` nor Manyhats has changed, its processes stay."""
    text = json.dumps({**values, "": __version__}, sort_keys=True, default=_plain)
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
