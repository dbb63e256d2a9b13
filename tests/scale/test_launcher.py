"""What stands in the way of a cluster is said before one is started."""

from __future__ import annotations

import sys

import pytest
from manyhats.errors import ConfigurationError, WrongSetting
from manyhats.scale.launcher import check, cluster
from manyhats.scale.options import Scaling
from manyhats.settings import Settings


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    with pytest.raises(ConfigurationError, match=r"pip install 'manyhats\[ray\]'"), cluster(Scaling()):
        pytest.fail("there is no cluster")


def test_a_database_without_shared_files_is_refused() -> None:
    settings = Settings(backbone="x", database_url="postgresql://somebody@localhost/tasks")
    with pytest.raises(WrongSetting, match="blobs_url is not"):
        check(settings, listens=False)


def test_the_address_is_looked_at_where_this_machine_listens() -> None:
    with pytest.raises(ConfigurationError, match="no address"):
        check(Settings(backbone="x", host="192.0.2.1", api_keys=("k",)), listens=True)
    check(Settings(backbone="x", host="192.0.2.1", api_keys=("k",)), listens=False)
