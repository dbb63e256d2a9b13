"""A model's thread that fails again and again: the process ends, and says why."""

from __future__ import annotations

from tests.api.live import assert_error
from tests.faults.conftest import Start

_BROKEN = """
from manyhats.cli import main
from manyhats.engine.scheduler import Scheduler

schedule = Scheduler.schedule
left = [{times}]

def broken(scheduler):
    if left[0]:
        left[0] -= 1
        raise RuntimeError("the scheduler is broken")
    return schedule(scheduler)

Scheduler.schedule = broken
main()
"""


def test_the_process_ends_with_a_reason(serve: Start) -> None:
    server = serve(script=_BROKEN.format(times=1000)).wait_ready()
    assert_error(server.ask("base"), 503, "has given up")
    assert server.end() == 1
    assert "the engine has given up" in server.text
    assert server.text.strip().splitlines()[-1] == (
        "manyhats: the model's thread failed 5 times within 60 s, the last time with "
        "RuntimeError('the scheduler is broken')"
    )


def test_few_errors_are_counted_and_survived(serve: Start) -> None:
    server = serve(script=_BROKEN.format(times=3)).wait_ready()
    assert server.ask("base").status_code == 200
    assert "manyhats_engine_restarts_total 3.0" in server.client.get("/metrics").text
    assert server.client.get("/readyz").status_code == 200
