"""Training adapters that write: the loss is the answers' alone, and what is saved writes what was learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.core.kinds.examples import Columns
from manyhats.core.kinds.registry import TRAININGS
from manyhats.errors import InvalidRequest
from manyhats.formats.reader import read_adapter
from manyhats.training.batches import encode_dataset
from manyhats.training.data import load
from manyhats.training.job import Job, run
from manyhats.training.trainer import Trainer
from rich.console import Console
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.filterwarnings("ignore::FutureWarning")]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """To every word belongs the next one: `w3` is answered with `w4 w4`."""
    path = tmp_path / "data.jsonl"
    rows = [{"text": f"w{i % 30}", "label": f"w{i % 30 + 1} w{i % 30 + 1}"} for i in range(120)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def job(data: Path, out: Path, method: str, **changes: Any) -> Job:
    fields: dict[str, Any] = {"template": "w99 {text} w98", "schedule": {"epochs": 6, "batch_tokens": 128}}
    return Job(task="next", method=method, kind="generate", data=data, out=out, **(fields | changes))


@pytest.mark.parametrize("method", ["lora", "bottleneck", "prefix", "mask"])
def test_learns_and_is_read_back(load_backbone: Any, data: Path, tmp_path: Path, method: str) -> None:
    backbone = load_backbone("llama")
    report = run(job(data, tmp_path / "out", method), backbone, Console(quiet=True))
    ((name, bare),) = report.baselines
    assert name == "the bare backbone"
    assert report.test.value < bare.value
    adapter = read_adapter(tmp_path / "out", backbone)
    assert adapter.kind == "generate"
    assert adapter.settings["template"] == "w99 {text} w98"
    assert "loss per token of the answer" in (tmp_path / "out" / "README.md").read_text()


def test_the_score_is_the_mean_loss_of_the_answers_tokens(load_backbone: Any, base_folder: Any, data: Path) -> None:
    backbone = load_backbone("llama")
    items = encode_dataset(load(TRAININGS["generate"], Columns(), data), backbone, 64, "w99 {text}")
    model = AutoModelForCausalLM.from_pretrained(base_folder("llama")).eval()
    losses = []
    end = min(backbone.eos_token_ids)
    for item in items.test:
        assert item.ids[-1] == end
        assert item.ids[item.label_positions[0] + 1 :] == item.target
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([item.ids])).logits[0]
        losses += F.cross_entropy(
            logits[list(item.label_positions)], torch.tensor(item.target), reduction="none"
        ).tolist()
    from manyhats.methods.bound_adapter import BARE
    from manyhats.training.evaluation import evaluate

    found = evaluate(backbone, BARE, TRAININGS["generate"], items.test)
    assert found.count == len(losses)
    assert found.value == pytest.approx(sum(losses) / len(losses), abs=1e-4)


def test_what_cannot_be_trained_is_said(load_backbone: Any, bert: Any, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot generate"):
        Trainer(bert, "lora", "generate", 0, job(data, tmp_path, "lora").chosen_schedule())
    console = Console(quiet=True)
    with pytest.raises(InvalidRequest, match=r"contains \{text\}"):
        run(job(data, tmp_path / "a", "lora", template="none"), load_backbone("llama"), console)
    with pytest.raises(InvalidRequest, match="no room for its answer"):
        run(job(data, tmp_path / "b", "lora", max_tokens=4), load_backbone("llama"), console)
