"""Labelled examples at an upload: the version is activated only where it is no worse than the stable one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from manyhats.serving.evaluation import MAX_EXAMPLES

from tests.api.live import Files, Live, adapter_files, assert_error, fresh
from tests.api.test_rollouts import faulty

TEXTS = [f"w{i} w{3 * i + 1} w{i + 5}" for i in range(40)]  # more than one request has


def lines(rows: Sequence[Any]) -> str:
    return "\n".join(json.dumps(row) for row in rows)


def push(live: Live, task: str, files: Files, rows: Sequence[Any] | str, /, **form: str) -> httpx.Response:
    examples = rows if isinstance(rows, str) else lines(rows)
    answer = live.upload(task, files, examples=examples, **form)
    live.wait_loaded()
    return answer


def pair(live: Live) -> tuple[str, Files, list[dict[str, str]]]:
    """A task with a stable version; the files of another one; and rows that the stable version answers rightly."""
    first, second = adapter_files(live.backbone, labels=4), adapter_files(live.backbone, labels=4)
    task = fresh()
    assert live.upload(task, first).status_code == 201
    rows = [{"text": t, "label": o["label"]} for t, o in zip(TEXTS, live.outputs(task, TEXTS), strict=True)]
    return task, second, rows


def right(live: Live, ref: str, rows: Sequence[dict[str, str]]) -> float:
    outputs = live.outputs(ref, [row["text"] for row in rows])
    return sum(o["label"] == row["label"] for o, row in zip(outputs, rows, strict=True)) / len(rows)


def test_a_worse_version_is_kept_and_not_activated(live: Live) -> None:
    task, second, rows = pair(live)
    answer = push(live, task, second, rows, gate='{"max_drop": 0.01, "metric": "accuracy"}')
    assert answer.status_code == 201, answer.text
    body = answer.json()
    value = right(live, f"{task}@2", rows)
    assert value < 0.99
    assert (body["version"], body["activated"], body["aliases"]) == (2, False, {"stable": 1})
    evaluation = body["evaluation"]
    assert evaluation["value"] == pytest.approx(value)
    assert (evaluation["metric"], evaluation["baseline"], evaluation["baseline_version"]) == ("accuracy", 1.0, 1)
    assert (evaluation["examples"], evaluation["max_drop"], evaluation["alias"]) == (40, 0.01, "stable")
    assert evaluation["reason"] == (
        f"accuracy {value:.4g} beside 1 of the stable version 1: {1 - value:.4g} worse, and at most 0.01 is allowed"
    )
    assert live.client.get(f"/v1/tasks/{task}/versions/2").json()["evaluation"] == evaluation
    assert "evaluation" not in live.client.get(f"/v1/tasks/{task}/versions/1").json()
    # The same bytes again, with a bound that it keeps.
    answer = push(live, task, second, rows, gate=json.dumps({"max_drop": 1 - value}))
    assert answer.status_code == 200
    assert answer.json()["activated"]
    assert answer.json()["aliases"] == {"stable": 2}
    # What asks meanwhile is nobody's.
    text = live.client.get("/metrics").text
    assert f'manyhats_requests_total{{method="lora",outcome="ok",task="{task}"}} 2.0' in text


def test_a_better_version_is_activated(live: Live) -> None:
    task, second, _ = pair(live)
    probe = fresh()
    live.upload(probe, second)
    rows = [{"text": t, "label": o["label"]} for t, o in zip(TEXTS, live.outputs(probe, TEXTS), strict=True)]
    before = right(live, task, rows)
    body = push(live, task, second, rows).json()
    assert body["activated"]
    assert body["aliases"] == {"stable": 2}
    assert (body["evaluation"]["value"], body["evaluation"]["baseline"]) == (1.0, pytest.approx(before))


def test_another_alias_is_judged_by_the_stable_version_too(live: Live) -> None:
    task, second, rows = pair(live)
    body = push(live, task, second, rows, alias="canary").json()
    assert (body["activated"], body["aliases"]) == (False, {"stable": 1})
    body = push(live, task, second, rows, alias="canary", gate='{"max_drop": 1}').json()
    assert (body["activated"], body["aliases"]) == (True, {"stable": 1, "canary": 2})


def test_the_first_version_has_nothing_to_be_compared_with(live: Live) -> None:
    body = push(live, fresh(), adapter_files(live.backbone), [{"text": "w1", "label": "LABEL_0"}]).json()
    assert body["activated"]
    assert (body["evaluation"]["baseline"], body["evaluation"]["baseline_version"]) == (None, None)
    assert body["evaluation"]["reason"] == "there is no stable version to compare with"


def test_what_is_not_to_be_activated_is_only_evaluated(live: Live) -> None:
    task, second, rows = pair(live)
    body = push(live, task, second, rows, gate='{"max_drop": 1}', activate="false").json()
    assert (body["activated"], body["aliases"]) == (False, {"stable": 1})
    assert body["evaluation"]["reason"].endswith("it was not to be activated")


def test_a_version_that_fails_is_not_activated(live: Live) -> None:
    task, _, rows = pair(live)
    bad = [{"text": row["text"], "label": "LABEL_0"} for row in rows]
    body = push(live, task, faulty(live), bad, gate='{"max_drop": 1}').json()
    assert (body["activated"], body["aliases"]) == (False, {"stable": 1})
    assert body["evaluation"]["value"] is None
    assert "not finite" in body["evaluation"]["reason"]


def test_a_stable_version_that_fails_is_no_hindrance(live: Live) -> None:
    task = fresh()
    live.upload(task, faulty(live))
    body = push(live, task, adapter_files(live.backbone), [{"text": "w1", "label": "LABEL_0"}]).json()
    assert body["activated"]
    assert body["evaluation"]["reason"] == "the stable version 1 fails on the examples"


def test_versions_of_two_kinds_are_not_compared(live: Live) -> None:
    task = live.add(kind="regress", labels=1)
    body = push(live, task, adapter_files(live.backbone), [{"text": "w1", "label": "LABEL_0"}]).json()
    assert not body["activated"]
    assert "is of kind 'regress'" in body["evaluation"]["reason"]


def test_it_survives_a_restart(start: Callable[..., AbstractContextManager[Live]], tmp_path: Path) -> None:
    with start(tmp_path / "kept") as live:
        task, second, rows = pair(live)
        body = push(live, task, second, rows).json()
        evaluation = body["evaluation"]
    with start(tmp_path / "kept") as live:
        found = live.client.get(f"/v1/tasks/{task}").json()
        assert [version.get("evaluation") for version in found["versions"]] == [None, evaluation]
        assert found["aliases"] == {"stable": 1}


@pytest.mark.parametrize(
    ("kind", "labels", "metric", "row", "wrong"),
    [
        ("regress", 1, "mse", {"text": "w1 w2", "label": 0.5}, {"label": "much"}),
        ("rerank", 1, "accuracy", {"text": "w1", "document": "w2", "label": 1}, {"label": 2}),
        ("tokens", 3, "accuracy", {"tokens": ["w1", "w2"], "tags": ["LABEL_0", "LABEL_1"]}, {"tags": []}),
        ("span", 2, "exact_match", {"text": "w1", "context": "w2 w3", "label": "w3"}, {"label": "w9"}),
        ("embed", 1, "accuracy", {"text": "w1 w2", "pair": "w3"}, {"pair": ""}),
        ("classify", 3, "accuracy", {"text": "w1", "text_pair": "w2", "label": "LABEL_1"}, {"label": "LABEL_9"}),
    ],
)
def test_every_kind_is_judged_by_its_metric(
    live: Live, kind: Any, labels: int, metric: str, row: dict[str, Any], wrong: dict[str, Any]
) -> None:
    task = fresh()
    form = {"task": json.dumps({"kind": kind})}
    for n in (1, 2):
        files = adapter_files(live.backbone, kind=kind, labels=labels)
        answer = push(live, task, files, [row] * 3, gate='{"max_drop": 1e9}', **form)
        assert answer.status_code == 201, answer.text
        evaluation = answer.json()["evaluation"]
        assert (evaluation["metric"], evaluation["examples"]) == (metric, 3)
        assert evaluation["activated"], evaluation["reason"]
        assert (evaluation["baseline"] is not None) == (n == 2)
    answer = push(live, task, adapter_files(live.backbone, kind=kind, labels=labels), [row, row | wrong], **form)
    assert_error(answer, 400, "examples, row 2")
    assert len(live.client.get(f"/v1/tasks/{task}").json()["versions"]) == 2


def test_several_labels_of_a_text_are_judged_together(live: Live) -> None:
    form = {"task": '{"labels": ["a", "b", "c"], "defaults": {"multi_label": true}}'}
    files, task = adapter_files(live.backbone), fresh()
    live.upload(task, files, **form)
    rows = [{"text": t, "label": o["labels"]} for t, o in zip(TEXTS, live.outputs(task, TEXTS), strict=True)]
    evaluation = push(live, task, files, rows).json()["evaluation"]
    assert (evaluation["metric"], evaluation["value"]) == ("f1", 1.0 if any(row["label"] for row in rows) else 0.0)


@pytest.mark.parametrize(
    ("examples", "form", "status", "pattern"),
    [
        ("", {}, 400, "no rows"),
        ('{"text": "w1"', {}, 400, "line 1 is not valid JSON"),
        ('{"text": "w1", "label": "LABEL_0"}\n[1]', {}, 400, "line 2 is no JSON object"),
        ('{"text": "w1", "label": NaN}', {}, 400, "line 1 is not valid JSON"),
        ('{"text": "w1"}', {}, 400, "there is no 'label'; a row of kind 'classify' has text, label"),
        ('{"text": "", "label": "LABEL_0"}', {}, 400, "row 1: column 'text' is empty"),
        ('{"text": "w1", "label": "spam"}', {}, 400, "row 1: the adapter has no label 'spam'; it has LABEL_0"),
        ("{}\n" * (MAX_EXAMPLES + 1), {}, 413, "at most 2000"),
        ("x" * (1 << 20) + "y", {}, 413, "larger than"),
        ('{"text": "w1", "label": "LABEL_0"}', {"gate": '{"max_drop": -1}'}, 400, "part 'gate': max_drop"),
        ('{"text": "w1", "label": "LABEL_0"}', {"gate": '{"most": 1}'}, 400, "most"),
        ('{"text": "w1", "label": "LABEL_0"}', {"gate": '{"metric": "f1"}'}, 400, "'accuracy', not 'f1'"),
        ('{"text": "w1", "label": "LABEL_0"}', {"gate": "much"}, 400, "part 'gate'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_stored(
    live: Live, examples: str, form: dict[str, str], status: int, pattern: str
) -> None:
    task = fresh()
    assert_error(push(live, task, adapter_files(live.backbone), examples, **form), status, pattern)
    assert live.client.get(f"/v1/tasks/{task}").status_code == 404


def test_a_gate_needs_examples(live: Live) -> None:
    answer = live.upload(fresh(), adapter_files(live.backbone), gate="{}")
    assert_error(answer, 400, "needs labelled 'examples'")
