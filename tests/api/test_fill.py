"""Filling masks over HTTP: among tasks of other kinds, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM

from tests import tiny
from tests.api.live import Live, adapter_files, assert_error, fresh, serving
from tests.references.peft import References
from tests.references.peft_recipes import masked_texts

(TEXT,) = masked_texts("fill", "bert")  # "w1 [MASK] w3 [MASK]"


@pytest.fixture(scope="module")
def folder(peft_references: References) -> Path:
    return peft_references.base("bert-masked")


@pytest.fixture(scope="module")
def live(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with serving(tiny.load(folder), tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture(scope="module")
def files(peft_references: References) -> dict[str, bytes]:
    """The adapter's files, as PEFT saved them."""
    folder = peft_references.folder("masked", "bert", "fill")
    return {name: (folder / name).read_bytes() for name in ("adapter_config.json", "adapter_model.safetensors")}


def scores(model: torch.nn.Module, ids: list[int], place: int) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits[0, place].softmax(-1)


def test_fills_as_peft_among_other_kinds(live: Live, files: dict[str, bytes], peft_references: References) -> None:
    task, other = fresh("fill"), live.add(method="bottleneck", kind="embed")
    answer = live.upload(task, files)
    assert answer.status_code == 201, answer.text
    assert answer.json()["kind"] == "fill"
    asked = {"requests": [{"task": t, "inputs": TEXT} for t in (other, task, other)]}
    (_, filled, _) = live.client.post("/v1/predict", json=asked).json()["results"]
    (output,) = filled["outputs"]
    assert [(m["start"], m["end"]) for m in output["masks"]] == [(3, 9), (13, 19)]
    (logits,) = peft_references.answer("masked", "bert", "fill").outputs
    best = []
    for expected, mask in zip(logits.softmax(-1), output["masks"], strict=True):
        assert len(mask["fills"]) == 5
        top = expected.topk(5)
        assert [fill["token"] for fill in mask["fills"]] == top.indices.tolist()
        assert torch.allclose(torch.tensor([fill["score"] for fill in mask["fills"]]), top.values, atol=tiny.CLOSE)
        best.append(mask["fills"][0]["text"])
    if not any("[" in word for word in best):
        assert output["text"] == f"w1 {best[0]} w3 {best[1]}"
    assert len(live.outputs(task, TEXT, top_k=2)[0]["masks"][0]["fills"]) == 2


def test_the_backbone_fills_by_itself(live: Live, folder: Path) -> None:
    (output,) = live.outputs("base", TEXT, kind="fill", top_k=1)
    ids = list(tiny.row(live.backbone, tiny.BARE, TEXT).ids)
    expected = scores(AutoModelForMaskedLM.from_pretrained(folder).eval(), ids, 2)
    assert output["masks"][0]["fills"][0]["token"] == int(expected.argmax())


def test_what_cannot_be_filled_is_said(live: Live, files: dict[str, bytes]) -> None:
    task = fresh("fill")
    live.upload(task, files)
    assert_error(live.ask(task, "w1 w2"), 400, r"input 0 has no mask; write '\[MASK\]'")
    assert_error(live.ask(task, " ".join(["[MASK]"] * 17)), 400, "17 masks; at most 16")
    assert_error(live.ask("base", TEXT, kind="generate"), 400, "no kind 'generate'; it has embed, fill")


def test_a_backbone_without_the_head_refuses_the_adapter(
    served: object, files: dict[str, bytes], tmp_path: Path
) -> None:
    with serving(served, tmp_path) as bare:  # type: ignore[arg-type]
        assert_error(bare.upload(fresh(), files), 422, "no masked language-model head")
        assert bare.upload(fresh(), adapter_files(bare.backbone)).status_code == 201
