"""What a text may have and where it ends: tokens, words, lengths, and how much of its prompt is read."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from manyhats.backbone import Text
from transformers import AutoModelForCausalLM

from tests import tiny
from tests.api.generating import PROMPTS, add
from tests.api.live import Live, assert_error

BACKBONE = "llama"


@pytest.fixture(scope="module")
def task(live: Live) -> str:
    return add(live)


def tokens(live: Live, task: str, prompt: str = PROMPTS[0], **parameters: Any) -> list[int]:
    asked = {"max_new_tokens": 12, "ignore_eos": True} | parameters
    (output,) = live.outputs(task, prompt, **asked)
    found: list[int] = output["tokens"]
    return found


def test_stop_tokens_end_a_text(live: Live, task: str) -> None:
    whole = tokens(live, task)
    for stop in dict.fromkeys(whole):
        cut = whole[: whole.index(stop)]
        assert tokens(live, task, stop_token_ids=[stop, 3]) == (cut if 3 not in cut else cut[: cut.index(3)])
        (kept,) = live.outputs(
            task, PROMPTS[0], max_new_tokens=12, ignore_eos=True, stop_token_ids=[stop], include_stop=True
        )
        assert kept["tokens"] == [*cut, stop]
        assert kept["text"] == live.backbone.tokenizer.decode([*cut, stop])
        assert kept["finish_reason"] == "stop"


def test_a_least_length(live: Live, task: str) -> None:
    """Neither the end token, nor the request's, nor a stop string ends the text before."""
    whole = tokens(live, task)
    stop = whole[2]
    longer = tokens(live, task, stop_token_ids=[stop], min_tokens=6)
    assert len(longer) >= 6
    assert stop not in longer[:6]
    end = min(live.backbone.eos_token_ids)
    biased = {"logit_bias": {str(end): 100}, "ignore_eos": False}
    assert tokens(live, task, **biased) == []
    assert len(tokens(live, task, min_tokens=4, **biased)) == 4
    text = live.backbone.tokenizer.decode(whole[:2])
    assert len(tokens(live, task, stop=text.split()[0], min_tokens=5)) >= 5


def test_allowed_tokens(live: Live, task: str) -> None:
    whole = tokens(live, task)
    allowed = [whole[0], whole[-1], 7]
    for sampling in ({}, {"temperature": 3.0, "seed": 1}, {"temperature": 3.0, "seed": 1, "top_k": 2}):
        assert set(tokens(live, task, allowed_token_ids=allowed, **sampling)) <= set(allowed)
    assert tokens(live, task, allowed_token_ids=[9]) == [9] * 12


def test_bad_words(live: Live, task: str) -> None:
    whole = [t for t in tokens(live, task) if t not in live.backbone.tokenizer.loaded.all_special_ids]
    words = [live.backbone.tokenizer.decode([token]) for token in whole]
    for bad in ([words[0]], words[:2], [f" {words[1]}"], [" ".join(words[:2])]):
        written = tokens(live, task, bad_words=bad)
        for word in bad:
            ids = live.backbone.tokenizer.encode_bare(word, 9).ids
            assert all(written[i : i + len(ids)] != ids for i in range(len(written)))


def test_what_leaves_no_token_is_refused(live: Live, task: str) -> None:
    (word,) = live.backbone.tokenizer.encode_bare("w5", 9).ids
    asked = {"allowed_token_ids": [word], "bad_words": ["w5"], "max_new_tokens": 4}
    assert_error(live.ask(task, PROMPTS[0], **asked), 400, "after 0 tokens .* leave no token")
    live.wait_idle()


def test_a_prompt_that_is_cut(live: Live, task: str) -> None:
    long = tiny.words(80, 1)
    assert_error(live.ask(task, long), 400, "82 tokens")
    words = long.split()
    for kept, side, own in ((6, "left", words[-4:]), (6, "right", words[:4])):
        cut = tokens(live, task, long, truncate_prompt_tokens=kept, truncation_side=side)
        assert cut == tokens(live, task, " ".join(own))
    room = tiny.MAX_TOKENS - 2 - 12
    assert tokens(live, task, long, truncate_prompt_tokens=-1) == tokens(live, task, " ".join(words[-room:]))
    assert_error(live.ask(task, long, truncate_prompt_tokens=tiny.MAX_TOKENS), 400, "tokens; the task takes")


def test_special_tokens_in_the_text(live: Live, task: str) -> None:
    special = next(t for t in live.backbone.tokenizer.loaded.all_special_ids if t not in live.backbone.eos_token_ids)
    asked = {"max_new_tokens": 3, "allowed_token_ids": [special]}
    (skipped,) = live.outputs(task, PROMPTS[0], **asked)
    (kept,) = live.outputs(task, PROMPTS[0], skip_special_tokens=False, **asked)
    assert skipped["text"] == ""
    assert kept["text"] == live.backbone.tokenizer.loaded.decode([special] * 3)
    assert skipped["tokens"] == kept["tokens"] == [special] * 3


@pytest.mark.parametrize("prompt", PROMPTS)
def test_constraints_are_those_of_transformers(live: Live, base_folder: Any, prompt: str) -> None:
    """Of every one, what transformers' own loop writes; each of them changes the text."""
    model = AutoModelForCausalLM.from_pretrained(base_folder("llama")).eval()
    tokenizer = live.backbone.tokenizer
    ids = torch.tensor([tokenizer.encode([Text(prompt)], 99)[0].ids])

    def written(ends: list[int], **settings: Any) -> list[int]:
        with torch.inference_mode():
            whole = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=12,
                eos_token_id=ends or None,
                pad_token_id=0,
                **settings,
            )[0, ids.shape[1] :].tolist()
        return whole[:-1] if whole[-1] in ends else whole

    plain = written([])
    assert tokens(live, "base", prompt) == plain
    special = tokenizer.loaded.all_special_ids
    first, second = next(pair for pair in pairwise(plain) if not set(pair) & set(special))
    single = next(token for token in plain if token not in (first, second, *special))
    words = tokenizer.decode([first, second]), tokenizer.decode([single])
    allowed, end = [7, 9, 30, 44], plain[3]
    for ours, ends, theirs in (
        ({"bad_words": list(words)}, [], {"bad_words_ids": [[first, second], [single]]}),
        ({"stop_token_ids": [end]}, [end], {}),
        ({"stop_token_ids": [end], "min_tokens": 9}, [end], {"min_new_tokens": 9}),
        ({"repetition_penalty": 1.7}, [], {"repetition_penalty": 1.7}),
        ({"allowed_token_ids": allowed}, [], {"prefix_allowed_tokens_fn": lambda *_: allowed}),
        ({"logit_bias": {str(first): -9, "9": 2}}, [], {"sequence_bias": [[[first], -9.0], [[9], 2.0]]}),
    ):
        own = tokens(live, "base", prompt, **ours)
        assert own == written(ends, **theirs), ours
        assert own != plain, ours
