"""Adapters with one output over a whole text that rank documents by a query."""

from __future__ import annotations

import io
import json
import math
import tarfile

import pytest

from tests.api.live import Live, adapter_files, assert_error, close, fresh

PAIR = {"text": "w1 w2", "text_pair": "w3 w4 w5"}


@pytest.mark.parametrize("method", ["lora", "bottleneck", "mask"])
def test_what_the_uploader_says_makes_it_rank(live: Live, method: str) -> None:
    files, task = adapter_files(live.backbone, method, kind="regress", labels=1), fresh()
    answer = live.upload(task, files, task=json.dumps({"kind": "rerank"}))
    assert (answer.status_code, answer.json()["kind"]) == (201, "rerank")
    shown = live.client.get(f"/v1/tasks/{task}").json()
    assert (shown["kind"], shown["versions"][0]["kind"]) == ("rerank", "rerank")
    (scored,) = live.outputs(task, [PAIR])
    (raw,) = live.outputs(task, [PAIR], raw_scores=True)
    assert list(scored) == list(raw) == ["score"]
    assert scored["score"] == pytest.approx(1 / (1 + math.exp(-raw["score"])))


def test_a_tasks_settings_make_it_rank(live: Live) -> None:
    task = live.add(kind="regress", labels=1)
    (value,) = live.outputs(task, [PAIR])
    settings = {"kind": "rerank", "defaults": {"raw_scores": True}}
    assert live.client.put(f"/v1/tasks/{task}", json=settings).json()["kind"] == "rerank"
    assert live.outputs(task, [PAIR]) == [{"score": value["value"]}]
    assert live.client.put(f"/v1/tasks/{task}", json={"kind": None, "defaults": None}).json()["kind"] == "regress"
    assert live.outputs(task, [PAIR]) == [value]


def test_it_needs_a_pair_and_knows_its_parameters(live: Live) -> None:
    task = live.add(kind="rerank", labels=1)
    for inputs in (["w1"], [PAIR, {"text": "w1"}]):
        assert_error(live.ask(task, inputs), 400, "needs the query in 'text' and the document in 'text_pair'")
    assert_error(live.ask(task, [PAIR], raw_scores=1), 400, "raw_scores")
    assert_error(live.ask(task, [PAIR], top_k=1), 400, "of kind 'rerank', which has no parameter 'top_k'")
    long = {"text": "w1", "text_pair": "w2 " * 500}
    assert_error(live.ask(task, [long]), 400)
    assert len(live.outputs(task, [long], truncate=True)) == 1


def test_a_head_of_several_outputs_does_not_rank(live: Live) -> None:
    task = live.add(labels=2)
    error = assert_error(live.client.put(f"/v1/tasks/{task}", json={"kind": "rerank"}), 400)
    assert error["message"] == "kind is 'rerank', but the adapter can only be: classify"


@pytest.mark.parametrize("method", ["lora", "bottleneck", "mask"])
def test_its_files_say_so_and_come_back(live: Live, method: str) -> None:
    """Those of `manyhats train`: PEFT's and AdapterHub's say it in `manyhats.json`, ours in the head."""
    files, task = adapter_files(live.backbone, method, kind="rerank", labels=1), fresh()
    if method == "lora":
        assert json.loads(files["adapter_config.json"])["task_type"] == "SEQ_CLS"
        assert json.loads(files["manyhats.json"])["task"]["kind"] == "rerank"
    assert live.upload(task, files).json()["kind"] == "rerank"
    archive = live.client.get(f"/v1/tasks/{task}/versions/1/download").content
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        names = {name.rpartition("/")[2]: name for name in tar.getnames()}
        sent = {name: tar.extractfile(names[name]).read() for name in files}  # type: ignore[union-attr]
    assert sent == files
    again = fresh()
    assert live.upload(again, sent).json()["kind"] == "rerank"
    assert close(live.outputs(again, [PAIR]), live.outputs(task, [PAIR]))
