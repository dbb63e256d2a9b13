"""Filling masks over HTTP: among tasks of other kinds, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForMaskedLM

from tests import tiny
from tests.api.live import Live, adapter_files, assert_error, fresh, serving

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT's, about itself and transformers

TEXT = "w1 [MASK] w3 [MASK]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_base("bert", tmp_path_factory.mktemp("masked"), masked=True)


@pytest.fixture(scope="module")
def live(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with serving(tiny.load(folder), tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture(scope="module")
def model(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[peft.PeftModel, dict[str, bytes]]:
    """PEFT's own model, and the files that it saves."""
    out = tmp_path_factory.mktemp("adapter")
    config = peft.LoraConfig(r=4, target_modules=["query", "value"])
    model = peft.get_peft_model(AutoModelForMaskedLM.from_pretrained(folder), config).eval()
    tiny.randomise(model, seed=3)
    model.save_pretrained(out)
    names = ("adapter_config.json", "adapter_model.safetensors")
    return model, {name: (out / name).read_bytes() for name in names}


def scores(model: torch.nn.Module, ids: list[int], place: int) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits[0, place].softmax(-1)


def test_fills_as_peft_among_other_kinds(live: Live, model: tuple[peft.PeftModel, dict[str, bytes]]) -> None:
    task, other = fresh("fill"), live.add(method="bottleneck", kind="embed")
    answer = live.upload(task, model[1])
    assert answer.status_code == 201, answer.text
    assert answer.json()["kind"] == "fill"
    asked = {"requests": [{"task": t, "inputs": TEXT} for t in (other, task, other)]}
    (_, filled, _) = live.client.post("/v1/predict", json=asked).json()["results"]
    (output,) = filled["outputs"]
    assert [(m["start"], m["end"]) for m in output["masks"]] == [(3, 9), (13, 19)]
    ids = list(tiny.row(live.backbone, tiny.BARE, TEXT).ids)
    best = []
    for place, mask in zip((2, 4), output["masks"], strict=True):
        expected = scores(model[0], ids, place)
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


def test_what_cannot_be_filled_is_said(live: Live, model: tuple[peft.PeftModel, dict[str, bytes]]) -> None:
    task = fresh("fill")
    live.upload(task, model[1])
    assert_error(live.ask(task, "w1 w2"), 400, r"input 0 has no mask; write '\[MASK\]'")
    assert_error(live.ask(task, " ".join(["[MASK]"] * 17)), 400, "17 masks; at most 16")
    assert_error(live.ask("base", TEXT, kind="generate"), 400, "no kind 'generate'; it has embed, fill")


def test_a_backbone_without_the_head_refuses_the_adapter(
    served: object, model: tuple[peft.PeftModel, dict[str, bytes]], tmp_path: Path
) -> None:
    with serving(served, tmp_path) as bare:  # type: ignore[arg-type]
        assert_error(bare.upload(fresh(), model[1]), 422, "no masked language-model head")
        assert bare.upload(fresh(), adapter_files(bare.backbone)).status_code == 201
