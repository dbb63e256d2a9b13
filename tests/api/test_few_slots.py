"""A call over more tasks than there are slots holds none that the rest of it, or another such call, waits for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from manyhats.backbone import Backbone

from tests.api.live import at_once, serving

TASKS = 4


def test_calls_of_several_tasks_do_not_wait_for_each_other(
    load_backbone: Callable[[str], Backbone], tmp_path: Path
) -> None:
    with serving(load_backbone("bert"), tmp_path, slots=2, preload=0) as live:
        tasks = [live.add() for _ in range(TASKS)]
        alone = {task: live.outputs(task, "w1 w2") for task in tasks}

        def ask(first: int) -> None:
            own = tasks[first:] + tasks[:first]
            for _ in range(5):
                answer = live.client.post("/v1/predict", json={"tasks": own, "inputs": "w1 w2"})
                results = answer.json()["results"]
                assert [result.get("error") for result in results] == [None] * TASKS
                assert [result["outputs"][0]["label"] for result in results] == [alone[t][0]["label"] for t in own]

        at_once(*(lambda first=first: ask(first) for first in range(TASKS)))
        live.wait_idle()
