"""What replicas share, and what each has for its own, of the settings."""

from __future__ import annotations

from manyhats.access.control import keys_file
from manyhats.scale.places import Place
from manyhats.settings import Settings


def shares(settings: Settings) -> bool:
    """Whether the replicas of these settings share a database, so that a change reaches all."""
    return bool(getattr(settings, "database_url", ""))


def own_settings(settings: Settings, place: Place) -> Settings:
    """The settings of one replica: those of all, with its own folder. Keys are those of all."""
    return settings.model_copy(update={"store": place.folder, "keys_file": keys_file(settings)})
