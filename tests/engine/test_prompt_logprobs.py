"""Prompts that are scored: the values are those of one pass over the whole prompt, however it is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.core.sequence import Delta, Request
from manyhats.engine import prompt_logprobs
from manyhats.engine.forward import forward
from manyhats.engine.forward_input import ForwardInput
from manyhats.engine.prompt_logprobs import PromptLogprobs
from manyhats.methods.bound_adapter import BARE, BoundAdapter
from transformers import AutoModelForCausalLM

from tests import engines, every, tiny

PROMPTS = [[7], [2, 17, 30, 41], [*range(10, 60)]]


def request(
    backbone: Backbone, adapter: BoundAdapter, prompt: Sequence[int], *, top: int | None = 3, new: int = 2, n: int = 1
) -> Request:
    return engines.generation(backbone, str(id(adapter)), adapter, prompt, new=new, n=n, top=top)


def expected(backbone: Backbone, adapter: BoundAdapter, prompt: Sequence[int]) -> torch.Tensor:
    """(tokens, vocabulary): logarithms of the probabilities of what follows each place."""
    row = ForwardInput(prompt, [0] * len(prompt), adapter, mask_positions=tuple(range(len(prompt))))
    with torch.inference_mode():
        return torch.log_softmax(forward(backbone, [row])[0].float(), -1)


def check(one: Request, want: torch.Tensor, top: int = 3) -> None:
    scores = one.sequences[0].prompt_logprobs
    assert isinstance(scores, PromptLogprobs)
    assert scores.complete
    assert scores.scores[0] is None
    assert len(scores.scores) == len(scores.prompt)
    for i, score in enumerate(scores.scores[1:]):
        assert score is not None
        assert score.token == scores.prompt[i + 1]
        assert abs(score.logprob - float(want[i, score.token])) < tiny.CLOSE
        values = want[i].sort(descending=True).values
        assert [value for _, value in score.top] == pytest.approx(values[:top].tolist(), abs=tiny.CLOSE)
        assert abs(float(values[score.rank - 1]) - score.logprob) < tiny.CLOSE
        assert all(abs(float(want[i, t]) - value) < tiny.CLOSE for t, value in score.top)


@pytest.mark.parametrize("family", tiny.DECODERS)
def test_scores_are_those_of_transformers(load_backbone: Any, base_folder: Callable[[str], Path], family: str) -> None:
    backbone = load_backbone(family)
    model = AutoModelForCausalLM.from_pretrained(base_folder(family)).eval()
    requests = [request(backbone, BARE, prompt) for prompt in PROMPTS]
    engines.run(engines.engine(backbone, tokens=16), requests)
    for one, prompt in zip(requests, PROMPTS, strict=True):
        with torch.inference_mode():
            want = torch.log_softmax(model(torch.tensor([prompt])).logits[0].float(), -1)
        check(one, want)


def test_every_adapters_scores_are_those_of_a_whole_pass(load_backbone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All together, in pieces, and a few places at a time."""
    monkeypatch.setattr(prompt_logprobs, "_MAX_LOGITS", 7 * tiny.VOCABULARY)
    backbone = load_backbone("llama")
    adapters = [BARE, *(a.bind(backbone) for name, a in every.adapters(backbone).items() if name != "invertible")]
    requests = [request(backbone, adapter, prompt) for prompt in PROMPTS for adapter in adapters]
    others = [request(backbone, adapter, PROMPTS[2], top=None) for adapter in adapters]
    engines.run(engines.engine(backbone, tokens=48, cache=1 << 24), [*requests, *others])
    for one in requests:
        check(one, expected(backbone, one.sequences[0].adapter, one.sequences[0].prompt))
    for one, scored in zip(others, requests[-len(adapters) :], strict=True):
        assert engines.tokens(one) == engines.tokens(scored)


def test_what_the_cache_knows_is_read_again(load_backbone: Any) -> None:
    backbone = load_backbone("llama")
    one = engines.engine(backbone)
    engines.run(one, [request(backbone, BARE, PROMPTS[2], top=None)])
    scored = request(backbone, BARE, PROMPTS[2])
    engines.run(one, [scored])
    check(scored, expected(backbone, BARE, PROMPTS[2]))
    assert one.cache.reused == 0
    engines.run(one, [request(backbone, BARE, PROMPTS[2], top=None)])
    assert one.cache.reused == 48
    assert one.cache.pool.used == 0


def test_many_texts_of_a_prompt_score_it_once(load_backbone: Any) -> None:
    backbone = load_backbone("llama")
    one = engines.engine(backbone, tokens=16)
    scored = request(backbone, BARE, PROMPTS[2], n=3)
    complete: list[bool] = []

    def listen(delta: Delta) -> None:
        assert delta.sequence.prompt_logprobs is not None
        complete.append(delta.sequence.prompt_logprobs.complete)

    scored.listener = listen
    engines.run(one, [scored])
    check(scored, expected(backbone, BARE, PROMPTS[2]))
    assert len(complete) == 6
    assert all(complete)  # no text is delivered before its prompt's log probabilities are complete
    assert one.cache.reused == 2 * 48


def test_a_full_cache_changes_no_score(load_backbone: Any) -> None:
    backbone = load_backbone("llama")
    heads, dim = backbone.kv_shape
    one = engines.engine(backbone, tokens=24, cache=5 * 16 * 2 * backbone.layers * heads * dim * 4)
    requests = [request(backbone, BARE, [*PROMPTS[2][:40], i], new=12) for i in range(4)]
    engines.run(one, requests)
    assert one.scheduler.preempted > 0
    for each in requests:
        check(each, expected(backbone, BARE, each.sequences[0].prompt))


def test_a_prompt_can_be_read_alone(load_backbone: Any) -> None:
    """No new token: for adapters that see a text as a whole too."""
    backbone = load_backbone("llama")
    adapters = [BARE, *(every.adapters(backbone)[name].bind(backbone) for name in ("lora", "side"))]
    requests = [request(backbone, adapter, prompt, new=0, n=2) for prompt in PROMPTS for adapter in adapters]
    engines.run(engines.engine(backbone, tokens=24), requests)
    for one in requests:
        assert [(s.finish_reason, s.emitted_tokens, s.decoder.text) for s in one.sequences] == [("length", [], "")] * 2
        check(one, expected(backbone, one.sequences[0].adapter, one.sequences[0].prompt))


def test_values_that_are_not_finite_fail_the_task_alone(load_backbone: Any) -> None:
    backbone = load_backbone("llama")
    broken = tiny.adapter(backbone, "lora", 2, kind="generate").bind(backbone)
    tiny.spoil(broken, lambda pair: pair.up.fill_(float("inf")))
    fine, bad = request(backbone, BARE, PROMPTS[1], new=0), request(backbone, broken, PROMPTS[1], new=0)
    one = engines.engine(backbone)
    engines.step_all(one, [fine, bad])
    assert "not finite" in str(bad.future.exception(0))
    check(fine, expected(backbone, BARE, PROMPTS[1]))
