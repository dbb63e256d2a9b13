"""Answers that are computed once more, alone: a kernel that is wrong in shared batches alone is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.kernels.reference import Reference
from manyhats.kernels.registry import BACKENDS
from manyhats.kernels.registry import Backend as KernelBackend
from manyhats.serving.verification import Verifier

from tests import tiny
from tests.api.generating import PROMPTS
from tests.api.live import TEXTS, Live, adapter_files, close, serving
from tests.api.test_operations import figures
from tests.waiting import wait_until


class Leaky(Reference):
    """Low-rank pairs of several tasks at once: the first task's rows get something that is not theirs."""

    name = "leaky"

    def low_rank(self, x: Any, y: Any, table: Any, segments: Any, row_scale: Any = None) -> None:
        super().low_rank(x, y, table, segments, row_scale)
        if len(segments) > 1:
            start, stop, _ = next(iter(segments))
            y[start:stop] += 2 * torch.sin(torch.arange(y.shape[-1], dtype=y.dtype))


@pytest.fixture
def begin(base_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Starts a server with the wrong kernels, that verifies every answer."""
    monkeypatch.setitem(BACKENDS, "leaky", KernelBackend(Leaky))
    given = {"kernels": "leaky", "verify_fraction": 1.0}
    return lambda family, **options: serving(tiny.load(base_folder(family)), tmp_path / "store", **(given | options))


def verified(live: Live) -> dict[str, float]:
    """The figures once nothing waits to be compared."""
    wait_until(lambda: not live.runtime.service.verifier.pending, "all is compared")
    return {name: value for name, value in figures(live).items() if "verif" in name or "alone" in name}


def test_a_kernel_that_is_wrong_in_shared_batches_is_found(begin: Callable[..., Any], caplog: Any) -> None:
    with begin("bert") as live:
        tasks = [live.add(labels=i + 2) for i in range(3)]
        alone = {task: live.outputs(task) for task in tasks}
        found = verified(live)
        assert found["manyhats_verified_total"] == 3 * len(TEXTS)
        assert found["manyhats_verify_differences_total"] == 0
        assert found["manyhats_adapters_alone"] == 0

        def ask_together() -> list[Any]:
            body = {"tasks": tasks, "inputs": "w1 w2 w3"}
            return live.client.post("/v1/predict", json=body).json()["results"]

        expected = [live.outputs(task, "w1 w2 w3") for task in tasks]
        wrong = [answer["outputs"] for answer in ask_together()]
        assert not all(close(one, other) for one, other in zip(wrong, expected, strict=True))
        found = verified(live)
        assert found["manyhats_verify_differences_total"] == 1
        assert found["manyhats_adapters_alone"] == 1
        (odd,) = [task for task in tasks if "alone" in live.client.get(f"/v1/tasks/{task}").json()]
        shown = live.client.get(f"/v1/tasks/{odd}").json()
        assert "differed by" in shown["alone"] == shown["versions"][0]["alone"]
        assert "quarantined" not in shown
        (line,) = [record.getMessage() for record in caplog.records if "differs from the one" in record.getMessage()]
        assert f"an answer of {odd}@1" in line
        assert "w1" not in line
        # another is the first of its batch now, and is found too: then all are right, each alone
        ask_together()
        verified(live)
        ask_together()
        verified(live)
        for _ in range(3):
            right = [answer["outputs"] for answer in ask_together()]
            assert all(close(one, other) for one, other in zip(right, expected, strict=True))
        assert close([live.outputs(task) for task in tasks], list(alone.values()))
        assert live.client.post(f"/v1/tasks/{odd}/lift").status_code == 200
        assert "alone" not in live.client.get(f"/v1/tasks/{odd}").json()
        verified(live)
        live.wait_idle()


def test_texts_that_shared_batches_made_wrong_are_found(begin: Callable[..., Any]) -> None:
    with begin("llama") as live:
        tasks = [live.add("writer", kind="generate", seed=10 * i) for i in range(3)]
        asked = {"max_new_tokens": 12}
        alone = [live.outputs(task, PROMPTS[0], **asked) for task in tasks]
        assert verified(live)["manyhats_verify_differences_total"] == 0
        body = {"tasks": tasks, "inputs": PROMPTS[0], "parameters": asked}
        for _ in range(3):
            together = [answer["outputs"] for answer in live.client.post("/v1/predict", json=body).json()["results"]]
            found = verified(live)
            if together == alone:
                break
        assert found["manyhats_verify_differences_total"] >= 1
        assert 1 <= found["manyhats_adapters_alone"] <= 2
        assert together == alone
        live.wait_idle()


def test_right_answers_are_not_found_wrong(begin: Callable[..., Any]) -> None:
    """Many tasks and methods at once, greedy and sampled, with penalties and structure: no difference, nothing held."""
    with begin("llama", kernels="auto") as live:
        tasks = [live.add("writer", method, kind="generate") for method in ("lora", "prefix", "bottleneck", "lora")]
        tasks += [live.add("sorter", method, kind="classify") for method in ("lora", "mask")]
        options = (
            {},
            {"temperature": 1.3},
            {"temperature": 0.8, "top_p": 0.9, "seed": 3, "n": 2},
            {"repetition_penalty": 1.3},
            {"guided_regex": "[a-c ]{4,8}"},
            {"stop": ["w1"]},
        )

        def ask(i: int) -> None:
            task = tasks[i % len(tasks)]
            parameters = {} if "sorter" in task else {"max_new_tokens": 9} | options[i % len(options)]
            assert live.ask(task, PROMPTS, **parameters).status_code == 200

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(60)))
        found = verified(live)
        assert found["manyhats_verify_differences_total"] == 0
        assert found["manyhats_verified_total"] >= 60
        assert found["manyhats_verify_unclear_total"] <= 2  # in float32 a random number rarely lies between two tokens
        live.wait_idle()
        assert live.runtime.engine.cache is not None
        assert live.runtime.engine.cache.pool.used == 0


def test_a_share_is_chosen_and_the_queue_is_bounded(begin: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with begin("bert", kernels="auto", verify_fraction=0.25) as live:
        task = live.add()
        for _ in range(80):
            live.outputs(task, "w1 w2")
        found = verified(live)
        assert 5 <= found["manyhats_verified_total"] <= 40
        monkeypatch.setattr("manyhats.serving.verification._MAX_PENDING", 0)
        for _ in range(40):
            live.outputs(task, "w1 w2")
        after = verified(live)
        assert after["manyhats_verified_total"] == found["manyhats_verified_total"]
        assert after["manyhats_verify_skipped_total"] > 0
        live.wait_idle()


def test_the_same_seed_chooses_the_same_answers(bert_backbone: Backbone) -> None:
    class Nothing:
        engine_request = None
        effective_version = None

    chosen = []
    for seed in (1, 1, 2):
        verifier = Verifier(0.5, bert_backbone, None, None, seed)  # type: ignore[arg-type]
        draws = []
        for _ in range(50):
            before = verifier._random.getstate()
            verifier.offer(Nothing())  # type: ignore[arg-type]
            after = verifier._random.getstate()
            verifier._random.setstate(before)
            draws.append(verifier._random.random() < 0.5)
            assert verifier._random.getstate() == after
        chosen.append(draws)
    assert chosen[0] == chosen[1] != chosen[2]


@pytest.fixture
def bert_backbone(load_backbone: Callable[[str], Backbone]) -> Backbone:
    return load_backbone("bert")


def test_nothing_is_compared_unless_asked_for(begin: Callable[..., Any]) -> None:
    with begin("bert", kernels="auto", verify_fraction=0.0) as live:
        task = live.add()
        live.outputs(task)
        assert live.upload("another", adapter_files(live.backbone)).status_code == 201
        assert verified(live)["manyhats_verified_total"] == 0
        assert json.dumps(live.client.get("/v1/tasks").json())
