"""Running servers for the tests of the web layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from manyhats.backbone import Backbone
from manyhats.engine.runner import Runner

from tests import tiny
from tests.api.generating import add
from tests.api.live import Gate, Live, Witness, serving


@pytest.fixture(scope="session")
def served(base_folder: Callable[[str], Path]) -> Backbone:
    """The tiny BERT that servers use. Expectations are computed with `bert`, another instance of it."""
    return tiny.load(base_folder("bert"))


@pytest.fixture(scope="module")
def live(
    request: pytest.FixtureRequest,
    served: Backbone,
    base_folder: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Live]:
    """One server for the tests of a module, of the family that `BACKBONE` names; each test makes tasks of its own."""
    family = getattr(request.module, "BACKBONE", None)
    backbone = served if family is None else tiny.load(base_folder(family))
    with serving(backbone, tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture(scope="module")
def tasks(live: Live) -> list[str]:
    """The bare backbone, and a task that generates of each sort of method."""
    return ["base", add(live), add(live, "prefix"), add(live, "bottleneck"), add(live, "mask")]


@pytest.fixture
def start(base_folder: Callable[[str], Path], tmp_path: Path) -> Callable[..., AbstractContextManager[Live]]:
    """Starts a server with settings of its own, and with a backbone of its own: another one may be at work."""
    return lambda store=None, **settings: serving(
        tiny.load(base_folder("bert")), store or tmp_path / "store", **settings
    )


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Holds all batches of all servers until it is opened."""
    closed = Gate()
    monkeypatch.setattr(Runner, "execute", lambda runner, batch: closed.execute(runner, batch))
    yield closed
    closed.open()


@pytest.fixture
def witness(live: Live) -> Iterator[Witness]:
    """Asks another task during the whole test; none of its answers may change."""
    task = live.add("witness", "bottleneck", labels=4, seed=99)
    with Witness(live, task) as watching:
        yield watching
