"""Folders of sentence-transformers over REST: what they say holds, is reported, or is refused by name."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.formats.writer import write_adapter
from torch import Tensor

from tests import tiny
from tests.api.conftest import Live, serving
from tests.api.live import fresh
from tests.references import sentence

TEXTS = ["w1 w2 w3", "w4 w5", "w6 w7 w8 w9 w10"]
SEED = 41


def packed(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(folder, "model")
    return buffer.getvalue()


@pytest.fixture
def folder(bert: Backbone, tmp_path: Path) -> Path:
    """An adapter's folder; tests put sentence-transformers' files beside it."""
    place = tmp_path / "model"
    place.mkdir()
    write_adapter(tiny.adapter(bert, "lora", SEED), place, bert)
    (place / "manyhats.json").unlink()
    return place


def pushed(live: Live, folder: Path, **form: str) -> tuple[str, dict[str, Any]]:
    task = fresh("sentence")
    answer = live.upload(task, archive=packed(folder), **form)
    assert answer.status_code == 201, answer.text
    live.wait_loaded()
    return task, answer.json()


def right(
    bert: Backbone,
    texts: Sequence[str],
    modes: Sequence[str],
    behind: Sequence[sentence.Behind] = (),
    prompt_length: int = 0,
    adapter: Any = "lora",
) -> Tensor:
    """The library's vectors, by its own formulae over one padded batch."""
    made = None if adapter is None else tiny.adapter(bert, adapter, SEED)
    x = sentence.pooling(*sentence.padded(tiny.ask(bert, made, texts)), modes, prompt_length)
    for name, config, tensors in behind:
        if name == "Dense":
            x = sentence.apply_dense(config, tensors, x)
        elif name == "Normalize":
            x = torch.nn.functional.normalize(x, p=2, dim=-1)
        elif name == "LayerNorm":
            x = torch.nn.functional.layer_norm(x, (x.shape[1],), tensors["norm.weight"], tensors["norm.bias"])
    return x


def vectors(live: Live, task: str, texts: Any = TEXTS, **parameters: Any) -> Tensor:
    return torch.tensor([output["embedding"] for output in live.outputs(task, texts, **parameters)])


def close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and float((one - other).abs().max()) < tiny.CLOSE


NORMALIZE: sentence.Behind = ("Normalize", {}, {})


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("modes", [*((mode,) for mode in sentence.MODES), sentence.MODES])
@pytest.mark.parametrize("behind", [[], [NORMALIZE]])
def test_pooling(
    live: Live, bert: Backbone, folder: Path, new: bool, modes: tuple[str, ...], behind: list[sentence.Behind]
) -> None:
    sentence.write(folder, modes, behind, new=new)
    task, answer = pushed(live, folder)
    assert answer["kind"] == "embed"
    assert any("sentence-transformers" in warning for warning in answer["warnings"])
    assert close(vectors(live, task), right(bert, TEXTS, modes, behind))
    task_details = live.client.get(f"/v1/tasks/{task}").json()
    assert task_details["normalize"] is bool(behind)
    assert len(task_details["pooling"]) == 6 if len(modes) > 1 else isinstance(task_details["pooling"], str)


def test_what_stands_behind_the_pooling_keeps_its_order(live: Live, bert: Backbone, folder: Path) -> None:
    norm = {"norm.weight": torch.rand(12) + 0.5, "norm.bias": torch.randn(12)}
    behind: list[sentence.Behind] = [
        ("Dropout", {"dropout": 0.5}, {}),
        ("Dense", *sentence.dense(64, 48, "GELU", seed=1)),
        NORMALIZE,
        ("Dense", *sentence.dense(48, 48, "Identity", bias=False, residual=True, seed=2)),
        ("Dense", *sentence.dense(48, 12, "Tanh", residual=True, seed=3)),
        ("LayerNorm", {"dimension": 12}, norm),
        NORMALIZE,
    ]
    sentence.write(folder, ("cls", "mean"), behind)
    task, answer = pushed(live, folder)
    assert "3 dense layers (64 to 12)" in str(answer["warnings"])
    assert close(vectors(live, task), right(bert, TEXTS, ("cls", "mean"), behind))
    assert close(vectors(live, task, normalize=False), right(bert, TEXTS, ("cls", "mean"), behind[:-1]))
    assert close(vectors(live, task, pooling=["mean", "cls"]), right(bert, TEXTS, ("mean", "cls"), behind))
    refused = live.ask(task, TEXTS, pooling="mean")
    assert refused.status_code == 400
    assert "32 numbers, but the layer behind it takes 64" in refused.json()["error"]["message"]
    assert [len(output["embedding"][0]) for output in live.outputs(task, TEXTS, pooling="none")] == [32, 32, 32]


def test_truncate_dim_cuts_vectors_that_have_their_length(live: Live, bert: Backbone, folder: Path) -> None:
    sentence.write(folder, behind=[NORMALIZE], truncate_dim=10)
    task, _ = pushed(live, folder)
    whole = right(bert, TEXTS, ("mean",), [NORMALIZE])
    assert close(vectors(live, task), whole[:, :10])
    assert close(vectors(live, task, normalize=True), torch.nn.functional.normalize(whole[:, :10]))


def test_parameters_and_settings_go_before_the_folder_s(live: Live, bert: Backbone, folder: Path) -> None:
    sentence.write(folder, ("cls",), [NORMALIZE])
    task, _ = pushed(live, folder, task=json.dumps({"pooling": "max"}))
    assert close(vectors(live, task), right(bert, TEXTS, ("max",), [NORMALIZE]))
    assert close(vectors(live, task, pooling="weightedmean", normalize=False), right(bert, TEXTS, ("weightedmean",)))
    live.client.put(f"/v1/tasks/{task}", json={"pooling": ["last", "mean"], "normalize": False})
    assert close(vectors(live, task), right(bert, TEXTS, ("lasttoken", "mean")))
    live.client.put(f"/v1/tasks/{task}", json={"pooling": None, "normalize": None})
    assert close(vectors(live, task), right(bert, TEXTS, ("cls",), [NORMALIZE]))


# ---- prompts

PROMPTS = {"query": "w11 w12 ", "passage": "w13 "}


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("modes", [("mean",), ("weightedmean", "max"), ("lasttoken", "mean_sqrt_len_tokens")])
def test_prompts(live: Live, bert: Backbone, folder: Path, include_prompt: bool, modes: tuple[str, ...]) -> None:
    sentence.write(folder, modes, new=True, include_prompt=include_prompt, prompts=PROMPTS, default_prompt_name="query")
    task, answer = pushed(live, folder)
    assert "'query' by default" in str(answer["warnings"])

    def expected(prompt: str) -> Tensor:
        # the tokenizer's first special token and the prompt's words, without the last special token
        length = 0 if include_prompt or not prompt else 1 + len(prompt.split())
        return right(bert, [prompt + text for text in TEXTS], modes, prompt_length=length)

    assert close(vectors(live, task), expected("w11 w12 "))
    assert close(vectors(live, task, prompt_name="passage"), expected("w13 "))
    assert close(vectors(live, task, prompt="w20 w21 w22 "), expected("w20 w21 w22 "))
    assert close(vectors(live, task, prompt=""), expected(""))
    assert close(vectors(live, task, prompt_name="document"), expected(""))  # every model has it
    live.client.put(f"/v1/tasks/{task}", json={"default_prompt_name": "passage"})
    assert close(vectors(live, task), expected("w13 "))


def test_a_prompt_that_is_not_there(live: Live, folder: Path) -> None:
    sentence.write(folder, prompts=PROMPTS)
    task, _ = pushed(live, folder)
    answer = live.ask(task, TEXTS, prompt_name="nonsense")
    assert answer.status_code == 400
    assert "'query', 'document', 'passage'" in answer.json()["error"]["message"]
    assert live.ask(task, TEXTS, prompt_name="query", prompt="w1").status_code == 400
    assert live.client.put(f"/v1/tasks/{task}", json={"prompts": {}, "default_prompt_name": "x"}).status_code == 400
    plain = live.add(kind="embed")
    assert live.ask(plain, TEXTS, prompt_name="query").status_code == 400
    assert close(vectors(live, plain, TEXTS, prompt="w9 "), vectors(live, plain, [f"w9 {text}" for text in TEXTS]))


def test_settings_that_other_kinds_do_not_follow(live: Live) -> None:
    task = live.add(kind="classify")
    for body in (
        {"prompts": {"a": "b"}},
        {"default_prompt_name": "a"},
        {"include_prompt": False},
        {"lower_case": True},
    ):
        answer = live.client.put(f"/v1/tasks/{task}", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == next(iter(body))
    embeds = live.add(kind="embed")
    answer = live.client.put(f"/v1/tasks/{embeds}", json={"default_prompt_name": "a"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "default_prompt_name")


def test_a_limit_over_the_backbone_s(live: Live, folder: Path) -> None:
    sentence.write(folder, max_seq_length=100_000)
    task, _ = pushed(live, folder)
    assert live.client.get(f"/v1/tasks/{task}").json()["max_tokens"] == live.backbone.max_tokens


def test_prompts_can_be_set_for_any_task(live: Live) -> None:
    task = live.add(kind="embed")
    task_details = live.client.put(
        f"/v1/tasks/{task}", json={"prompts": {"a": "w5 "}, "default_prompt_name": "a"}
    ).json()
    assert (task_details["prompts"], task_details["default_prompt_name"]) == ({"a": "w5 "}, "a")
    assert close(vectors(live, task), vectors(live, task, [f"w5 {text}" for text in TEXTS], prompt=""))
    live.client.put(f"/v1/tasks/{task}", json={"default_prompt_name": None, "defaults": {"prompt_name": "a"}})
    assert close(vectors(live, task), vectors(live, task, [f"w5 {text}" for text in TEXTS], prompt=""))


def test_a_prompt_that_leaves_nothing_to_pool(live: Live, folder: Path) -> None:
    sentence.write(folder, include_prompt=False, prompts=PROMPTS, max_seq_length=3)
    task, _ = pushed(live, folder)
    assert live.ask(task, TEXTS, prompt_name="query").status_code == 200  # the last special token is left


# ---- limits


@pytest.mark.parametrize("new", [False, True])
def test_longer_texts_are_cut_and_it_is_said(live: Live, bert: Backbone, folder: Path, new: bool) -> None:
    sentence.write(folder, new=new, max_seq_length=4)
    task, answer = pushed(live, folder)
    assert "inputs cut after 4 tokens" in str(answer["warnings"])
    assert live.client.get(f"/v1/tasks/{task}").json()["max_tokens"] == 4
    body = live.ask(task, TEXTS).json()
    assert close(
        torch.tensor([o["embedding"] for o in body["outputs"]]), right(bert, ["w1 w2", "w4 w5", "w6 w7"], ("mean",))
    )
    assert [(w["input"], w["code"]) for w in body["warnings"]] == [(0, "truncated"), (2, "truncated")]
    assert live.ask(task, TEXTS, truncate=False).status_code == 400


def test_lower_case(live: Live, folder: Path) -> None:
    sentence.write(folder, do_lower_case=True)
    task, _ = pushed(live, folder)
    assert close(vectors(live, task, ["W1 W2"]), vectors(live, task, ["w1 w2"]))


# ---- a backbone's folder


@pytest.fixture(scope="module")
def own(base_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Live, Any]]:
    """A server of a backbone from a sentence-transformers folder."""
    place = tmp_path_factory.mktemp("backbone")
    for path in base_folder("bert").iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    behind = [("Dense", *sentence.dense(32, 12)), NORMALIZE]
    options = {"prompts": {"query": "w11 "}, "default_prompt_name": "query", "max_seq_length": 5}
    sentence.write(place, ("cls",), behind, **options)
    with serving(tiny.load(place), tmp_path_factory.mktemp("store")) as running:
        yield running, behind


def test_the_bare_backbone_is_as_its_folder_says(own: tuple[Live, Any], bert: Backbone) -> None:
    live, behind = own
    texts = ["w1 w2", "w3", "w4 w5 w6"]
    cut = ["w11 w1 w2", "w11 w3", "w11 w4 w5"]
    body = live.ask("base", texts).json()
    expected = right(bert, cut, ("cls",), behind, adapter=None)
    assert close(torch.tensor([output["embedding"] for output in body["outputs"]]), expected)
    assert [w["input"] for w in body["warnings"]] == [2]
    assert close(
        vectors(live, "base", ["w1 w2"], prompt_name="document"), right(bert, ["w1 w2"], ("cls",), behind, adapter=None)
    )
    assert close(
        vectors(live, "base", ["w1 w2"], prompt="", pooling="mean", normalize=False),
        right(bert, ["w1 w2"], ("mean",), behind[:1], adapter=None),
    )
    task_details = live.client.get("/v1/tasks/base").json()
    assert (
        task_details["pooling"],
        task_details["normalize"],
        task_details["max_tokens"],
        task_details["overflow"],
    ) == ("cls", True, 5, "truncate")
    assert task_details["default_prompt_name"] == "query"


def test_an_adapter_that_says_nothing_is_as_the_backbone(own: tuple[Live, Any], bert: Backbone) -> None:
    live, behind = own
    task = live.add(kind="embed", seed=SEED)
    assert close(vectors(live, task, ["w1 w2", "w3"]), right(bert, ["w11 w1 w2", "w11 w3"], ("cls",), behind))


def test_an_adapter_s_own_files_go_before_the_backbone_s(own: tuple[Live, Any], bert: Backbone, folder: Path) -> None:
    live, _ = own
    sentence.write(folder, ("max",))
    task, _ = pushed(live, folder)
    assert close(vectors(live, task), right(bert, TEXTS, ("max",)))


def test_other_kinds_know_nothing_of_it(own: tuple[Live, Any]) -> None:
    live, _ = own
    task = live.add(kind="classify")
    assert live.client.get(f"/v1/tasks/{task}").json()["max_tokens"] == live.backbone.max_tokens
    assert live.ask(task, ["w1 w2 w3 w4 w5 w6 w7"]).json()["usage"]["input_tokens"] == 9


def test_a_folder_that_cannot_be_followed_wants_a_pooling(base_folder: Callable[[str], Path], tmp_path: Path) -> None:
    place = tmp_path / "backbone"
    place.mkdir()
    for path in base_folder("bert").iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    sentence.write(place, behind=[("CNN", {}, {})])
    with serving(tiny.load(place), tmp_path / "store") as live:
        answer = live.ask("base", TEXTS)
        assert answer.status_code == 400
        assert "CNN" in answer.json()["error"]["message"]
        assert live.ask("base", TEXTS, pooling="mean").status_code == 200
        assert live.client.get("/v1/tasks/base").json()["pooling"] is None
        longer = live.ask("base", "w1 " * 100, pooling="mean")
        assert longer.status_code == 400  # nothing of the files is followed, their cutting neither
