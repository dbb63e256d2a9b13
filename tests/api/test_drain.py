"""The stages in which a server leaves."""

import pytest
from manyhats.api.drain import PROBES, Drain
from manyhats.errors import NotReady


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_it_leaves_in_stages(clock: Clock):
    left = []
    drain = Drain(delay=5, timeout=20, on_leave=lambda: left.append(True), clock=clock)
    assert drain.keeps_connections
    assert not drain.advance(busy=False)  # nobody has asked it to
    drain.begin()
    drain.begin()
    assert (drain.stage, left) == ("leaving", [True])
    assert not drain.keeps_connections
    drain.check("/v1/tasks/t/predict")  # still answered
    clock.now += 4.9
    assert not drain.advance(busy=False)
    assert drain.stage == "leaving"
    clock.now += 0.1
    assert not drain.advance(busy=True)
    assert drain.stage == "refusing"
    with pytest.raises(NotReady, match="shutting down"):
        drain.check("/v1/tasks/t/predict")
    for path in PROBES:
        drain.check(path)
    clock.now += 12
    assert not drain.advance(busy=True)
    assert drain.left == 8
    assert drain.advance(busy=False)
    assert drain.stage == "over"


def test_what_takes_too_long_is_not_waited_for(clock: Clock):
    drain = Drain(delay=0, timeout=20, clock=clock)
    drain.begin()
    drain.advance(busy=True)
    clock.now += 20
    assert drain.advance(busy=True)


def test_every_probe_is_a_route():
    from manyhats.api.app import openapi_schema

    assert set(openapi_schema()["paths"]) >= PROBES
