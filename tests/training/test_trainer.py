"""The training loop: every method learns, nothing else changes, and what is saved is what was trained."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.core.kinds.metrics import Score
from manyhats.core.kinds.registry import TRAININGS
from manyhats.errors import ConfigurationError, InvalidRequest
from manyhats.formats.reader import read_adapter
from manyhats.formats.writer import write_adapter
from manyhats.methods.recipe import Schedule
from manyhats.training.evaluation import predict
from manyhats.training.objective import batch_loss
from manyhats.training.recipes import RECIPES, schedule_for
from manyhats.training.stage import warm_up_and_decay
from manyhats.training.trainer import Outcome, Trainer
from safetensors.torch import load_file

from tests import tiny
from tests.training.samples import LABELS, encoded_examples

# All that need nothing else to begin with; the others have tests of their own.
ALONE = [name for name, recipe in RECIPES.items() if recipe.needs is None and not recipe.baseline]
# What the tiny backbone learns by: it is random, so little lies in it that a mask could find.
RATES = {
    "rslora": 5e-3,
    "prefix": 6e-2,
    "prefix-mlp": 5e-3,
    "prompt": 5e-2,
    "p-tuning": 2e-2,
    "ia3": 1e-1,
    "sparse": 1e-2,
    "diff-pruning": 1e-2,
    "side": 1e-2,
    "invertible": 1e-2,
    "compacter": 5e-2,
    "vera": 5e-2,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "sparse": {"share": 0.2},
    "diff-pruning": {"share": 0.2, "l0_weight": 0.01},
    "side": {"layers": 2},
    "token-rows": {"tokens": "w0,w1"},
}


def _schedule(recipe: str, **changes: Any) -> Schedule:
    given = {"epochs": 8, "batch_tokens": 160, "patience": 8, "head_learning_rate": 1e-2}
    return replace(schedule_for(recipe), **(given | {"learning_rate": RATES.get(recipe, 2e-2)} | changes))


def _trained(
    backbone: Backbone, recipe: str, kind: str = "classify", count: int = 160, **changes: Any
) -> tuple[Trainer, Outcome]:
    trainer = Trainer(backbone, recipe, kind, len(LABELS), _schedule(recipe, **changes), OPTIONS.get(recipe))
    return trainer, trainer.run(encoded_examples(backbone, kind, count, 0), encoded_examples(backbone, kind, 60, 1))


def _fingerprint(backbone: Backbone) -> str:
    total = hashlib.sha256()
    pooler = backbone.pooler
    assert pooler is not None
    for tensor in [*backbone.model.state_dict().values(), *pooler.state_dict().values()]:
        total.update(tensor.numpy().tobytes())
    return total.hexdigest()


def _settings(kind: str) -> dict[str, Any]:
    settings: dict[str, Any] = {"labels": LABELS} if kind in ("classify", "tokens", "multilabel") else {}
    return settings | ({"defaults": {"multi_label": True}} if kind == "multilabel" else {})


def _reloads_the_same(backbone: Backbone, trainer: Trainer, kind: str, folder: Path) -> None:
    """What is read back answers as what was trained does."""
    held = encoded_examples(backbone, kind, 40, 2)
    here = predict(backbone, trainer.bound(), held)
    settings = _settings(kind)
    write_adapter(trainer.adapter(settings), folder, backbone)
    reloaded = read_adapter(folder, backbone)
    assert reloaded.kind == TRAININGS[kind].served_as.name
    assert reloaded.settings.get("defaults") == settings.get("defaults")
    close = 5e-5 * (20 if kind == "regress" else 1)  # of numbers up to 5, and of hundreds
    assert tiny.difference(predict(backbone, reloaded.bind(backbone), held), here) < close


# One recipe of each method, on the kind that most train for; and every kind once. The others go with the slow tests:
# each of them takes its steps, and is read back, in the test after this one.
REAL = [(recipe, "classify") for recipe in ("lora", "houlsby", "prefix", "prompt", "ia3", "bitfit", "side", "mask")]
REAL += [("diff-pruning", "classify"), ("invertible", "classify")]
REAL += [("lora", "tokens"), ("bitfit", "regress"), ("lora", "multilabel"), ("mask", "span"), ("houlsby", "embed")]
REAL += [("lora", "rerank")]
USES = [(recipe, kind) for recipe in ALONE for kind in ("classify", "tokens", "regress")]
USES += [
    (recipe, kind)
    for recipe in ("lora", "houlsby", "mask", "bitfit")
    for kind in ("multilabel", "span", "embed", "rerank")
]


def test_every_method_has_a_real_training() -> None:
    trained = {member.method for recipe, _ in REAL for member in RECIPES[recipe].members}
    needing = {recipe.method for recipe in RECIPES.values() if recipe.needs}  # these have tests of their own
    assert trained | needing == {member.method for recipe in RECIPES.values() for member in recipe.members}
    assert {kind for _, kind in REAL} == {kind for _, kind in USES}
    assert set(REAL) <= set(USES)


@pytest.mark.parametrize(
    ("recipe", "kind"), [use if use in REAL else pytest.param(*use, marks=pytest.mark.slow) for use in USES]
)
def test_learns(bert: Backbone, tmp_path: Path, recipe: str, kind: str) -> None:
    before = _fingerprint(bert)
    trainer, outcome = _trained(bert, recipe, kind)
    assert _fingerprint(bert) == before
    assert not any(p.requires_grad or p.grad is not None for p in bert.model.parameters())
    assert min(outcome.losses) < 0.7 * outcome.losses[0]  # the best state is kept, whatever comes after it
    # a number's spread is about 3; a class or tag is guessed half the time, the other kinds hardly ever
    least = {"span": 0.3, "embed": 0.2}.get(kind, 0.8)
    assert outcome.validation.value < 5 if kind == "regress" else outcome.validation.value > least
    _reloads_the_same(bert, trainer, kind, tmp_path)


# Families that differ in where a method's weights stand: in the blocks, in the names of layers, in the head.
FEW_STEPS = [("bert", "tokens"), ("bert", "regress"), ("roberta", "classify"), ("distilbert", "classify")]


@pytest.mark.parametrize(("family", "kind"), FEW_STEPS)
@pytest.mark.parametrize("recipe", ALONE)
def test_steps_move_the_weights_and_reload(
    load_backbone: Callable[[str], Backbone], tmp_path: Path, family: str, kind: str, recipe: str
) -> None:
    """A few steps, which need not learn anything: they move the method's weights and the head's, and nothing else."""
    backbone = load_backbone(family)
    trainer = Trainer(backbone, recipe, kind, len(LABELS), _schedule(recipe, epochs=1), OPTIONS.get(recipe))
    before = [_values(module) for module in (trainer.trainable, trainer.head)]
    outcome = trainer.run(encoded_examples(backbone, kind, 24, 0), encoded_examples(backbone, kind, 8, 1))
    assert outcome.steps > 1
    assert all(math.isfinite(loss) for loss in outcome.losses)
    for module, values in zip((trainer.trainable, trainer.head), before, strict=True):
        after = _values(module)
        assert all(bool(torch.isfinite(value).all()) for value in after.values())
        still = [n for n, value in after.items() if n in values and torch.equal(value, values[n])]
        assert len(still) < len(after) / 2, still
    assert not any(p.requires_grad or p.grad is not None for p in backbone.model.parameters())
    _reloads_the_same(backbone, trainer, kind, tmp_path)


def _values(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ALONE)
@pytest.mark.parametrize("family", ["roberta", "distilbert"])
def test_other_families_learn(
    load_backbone: Callable[[str], Backbone], tmp_path: Path, family: str, recipe: str
) -> None:
    backbone = load_backbone(family)
    trainer, outcome = _trained(backbone, recipe, epochs=4)
    assert outcome.losses[-1] < outcome.losses[0]
    _reloads_the_same(backbone, trainer, "classify", tmp_path)


def test_a_seed_gives_the_same_adapter_twice(bert: Backbone) -> None:
    def weights(seed: int) -> torch.Tensor:
        trainer, _ = _trained(bert, "lora", epochs=2, seed=seed)
        return torch.cat([p.detach().reshape(-1) for m in (trainer.trainable, trainer.head) for p in m.parameters()])

    first = weights(5)
    assert torch.equal(first, weights(5))
    assert not torch.equal(first, weights(6))


def test_early_stopping_keeps_the_best_state(bert: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([0.5, 0.9, 0.6, 0.7, 0.8])
    states = []

    def evaluate(backbone: Backbone, adapter: Any, *_: Any) -> Score:
        states.append(adapter.head.layers[0].weight.detach().clone())
        return Score(TRAININGS["classify"].metric, next(values), 60)

    monkeypatch.setattr("manyhats.training.stage.evaluate", evaluate)
    trainer, outcome = _trained(bert, "bottleneck", patience=2)
    assert (outcome.best_epoch, outcome.epochs, outcome.validation.value) == (2, 4, 0.9)
    assert outcome.stopped == "No better validation score for 2 epochs."
    assert torch.equal(trainer.head.head().layers[0].weight, states[1])


def test_a_loss_that_is_no_number_keeps_the_last_good_state(bert: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def loss(*given: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return batch_loss(*given) * (math.nan if calls == 15 else 1)

    monkeypatch.setattr("manyhats.training.learner.batch_loss", loss)
    trainer, outcome = _trained(bert, "lora")
    assert outcome.stopped is not None
    assert "at step 15" in outcome.stopped
    assert outcome.epochs == 1
    assert all(bool(torch.isfinite(p).all()) for p in trainer.trainable.parameters())

    calls = 14
    with pytest.raises(InvalidRequest, match="not a finite number at step 1;"):
        _trained(bert, "lora")


def test_a_learning_rate_far_too_high_says_so(bert: Backbone) -> None:
    with pytest.raises(InvalidRequest, match="lower learning rate"):
        _trained(bert, "lora", learning_rate=1e30, head_learning_rate=1e30, warm_up=0.0)


@pytest.mark.parametrize("recipe", ALONE)
def test_an_unknown_option_is_named(bert: Backbone, recipe: str) -> None:
    method = RECIPES[recipe].method
    several = len(RECIPES[recipe].members) > 1
    name = f"{method}.colour" if several else "colour"
    with pytest.raises(InvalidRequest, match=f"{method} has no option 'colour'; it has"):
        Trainer(bert, recipe, "classify", 2, schedule_for(recipe), {name: "red"})
    if several:
        with pytest.raises(InvalidRequest, match=f"there is no option 'colour': .* write {method}.colour"):
            Trainer(bert, recipe, "classify", 2, schedule_for(recipe), {"colour": "red"})


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(InvalidRequest, match="no method 'lroa' can be trained; these can: average, bitfit, bottleneck"):
        schedule_for("lroa")


def test_embeddings_that_the_backbone_s_files_make_in_another_way_are_refused(bert: Backbone) -> None:
    own = bert.sentence_embedding
    bert.sentence_embedding = replace(own, stated=True, refused="a CNN is not supported")
    try:
        with pytest.raises(ConfigurationError, match="CNN"):
            Trainer(bert, "lora", "embed", 0, _schedule("lora"))
        Trainer(bert, "lora", "classify", 2, _schedule("lora"))
    finally:
        bert.sentence_embedding = own


def test_a_backbone_in_half_precision_is_refused(base_folder: Callable[[str], Path]) -> None:
    half = Backbone.load(str(base_folder("bert")), device="cpu", dtype="bfloat16")
    with pytest.raises(InvalidRequest, match="float32"):
        Trainer(half, "lora", "classify", 2, schedule_for("lora"))


def test_family_heads_need_the_pooler_that_they_read(bert: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bert, "has_pooler", False)
    with pytest.raises(InvalidRequest, match="has no weights for it; use houlsby or mask"):
        Trainer(bert, "prefix", "classify", 2, schedule_for("prefix"))
    Trainer(bert, "prefix", "tokens", 2, schedule_for("prefix"))
    Trainer(bert, "bottleneck", "classify", 2, schedule_for("bottleneck"))


def test_the_learning_rate_rises_and_falls() -> None:
    factor = warm_up_and_decay(100, 0.1)
    assert [round(factor(step), 3) for step in (0, 4, 9, 10, 55, 100)] == [0.1, 0.5, 1.0, 1.0, 0.5, 0.0]
    assert warm_up_and_decay(1, 0.06)(0) == 1.0


@pytest.mark.parametrize(
    ("recipe", "message"),
    [("unipelt", "a gate reads the whole text, its answer too"), ("invertible", "its inverse is not supported")],
)
def test_what_would_read_its_own_answer_learns_no_writing(
    load_backbone: Callable[[str], Backbone], recipe: str, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        Trainer(load_backbone("llama"), recipe, "generate", 0, schedule_for(recipe))


@pytest.mark.parametrize("kind", ["classify", "tokens"])
def test_trained_tokens_learn(bert: Backbone, tmp_path: Path, kind: str) -> None:
    trainer, outcome = _trained(bert, "token-rows", kind)
    assert trainer.parameters[0] == 2 * bert.hidden
    assert outcome.losses[-1] < outcome.losses[0]
    write_adapter(trainer.adapter({"labels": LABELS}), tmp_path, bert)
    held = encoded_examples(bert, kind, 20, 2)
    reloaded = read_adapter(tmp_path, bert)
    assert tiny.difference(predict(bert, reloaded.bind(bert), held), predict(bert, trainer.bound(), held)) < 1e-5


def test_a_compacter_is_saved_by_its_factors(bert: Backbone, tmp_path: Path) -> None:
    """And AdapterHub's names, so that the file is as small as what was trained."""
    trainer, _ = _trained(bert, "compacter", epochs=1)
    write_adapter(trainer.adapter({"labels": LABELS}), tmp_path, bert)
    tensors = load_file(tmp_path / "adapter.safetensors")
    assert sum(t.numel() for t in tensors.values()) == trainer.parameters[0]
    first = "bert.encoder.layer.0.attention.output.adapters.task.adapter_down.0."
    assert {n.removeprefix(first) for n in tensors if n.startswith(first)} == {"W_left", "W_right", "b"}
    assert "bert.shared_parameters.task.phm_rule" in tensors
