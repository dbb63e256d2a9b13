"""Texts over the routes of LoRAX and TGI."""

from __future__ import annotations

from typing import Any

import httpx
import lorax
import lorax.errors
import pytest
from manyhats.api.known_fields import FOLLOWED
from manyhats.api.lorax import GenerateBody, Parameters

from tests import tiny
from tests.api.generating import PROMPTS, add, events
from tests.api.live import Live

# LoRAX's client speaks to pydantic as one did years ago.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")


BACKBONE = "llama"


@pytest.fixture(scope="module")
def hats(live: Live) -> lorax.Client:
    return lorax.Client(f"http://{live.host}:{live.port}")


def test_lorax_generate(live: Live, tasks: list[str], hats: lorax.Client) -> None:
    for task in tasks:
        (expected,) = live.outputs(task, PROMPTS[0], max_new_tokens=6)
        name = None if task == "base" else task
        answer = hats.generate(PROMPTS[0], adapter_id=name, max_new_tokens=6, return_k_alternatives=2)
        assert answer.generated_text == expected["text"]
        assert answer.details is not None
        assert [token.id for token in answer.details.tokens] == expected["tokens"]
        assert all(len(token.alternative_tokens or []) == 2 for token in answer.details.tokens)
        pieces = list(hats.generate_stream(PROMPTS[0], adapter_id=name, max_new_tokens=6))
        assert "".join(piece.token.text for piece in pieces if not piece.token.special) == expected["text"]
        assert [piece.token.id for piece in pieces if not piece.token.special] == expected["tokens"]
        assert pieces[-1].generated_text == expected["text"]
        assert pieces[-1].details is not None
        assert pieces[-1].details.generated_tokens == len(expected["tokens"])
    direct = live.client.post("/generate", json={"inputs": PROMPTS[0], "parameters": {"max_new_tokens": 6}}).json()
    assert direct["generated_text"] == live.outputs("base", PROMPTS[0], max_new_tokens=6)[0]["text"]


def test_lorax_merged_adapters(live: Live, tasks: list[str], hats: lorax.Client) -> None:
    one, two = tasks[1], add(live)
    alone = hats.generate(PROMPTS[0], adapter_id=one, max_new_tokens=6).generated_text
    merged = lorax.MergedAdapters(ids=[one, two], weights=[1.0, 0.0], merge_strategy="linear", density=1.0)
    assert hats.generate(PROMPTS[0], merged_adapters=merged, max_new_tokens=6).generated_text == alone


def test_lorax_errors(live: Live, hats: lorax.Client) -> None:
    with pytest.raises(lorax.errors.GenerationError, match="nobody"):
        hats.generate("w1", adapter_id="nobody")
    with pytest.raises(lorax.errors.ValidationError, match="typical_p"):
        hats.generate("w1", typical_p=0.5)
    with pytest.raises(lorax.errors.ValidationError, match="tokens"):
        hats.generate(tiny.words(90, 1))
    answer = live.client.post("/generate", json={"inputs": 3})
    assert answer.status_code == 422
    assert answer.json()["error_type"] == "validation"


def generate(live: Live, **parameters: Any) -> httpx.Response:
    body = {"inputs": PROMPTS[0], "parameters": {"max_new_tokens": 6} | parameters}
    return live.client.post("/generate", json=body)


def text(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["generated_text"]
    return found


def test_every_optional_field_may_be_null(live: Live) -> None:
    plain = text(generate(live))
    nulls = dict.fromkeys((set(Parameters.model_fields) | FOLLOWED.keys()) - {"max_new_tokens"})
    assert text(generate(live, **nulls)) == plain
    for name in nulls:
        assert text(generate(live, **{name: None})) == plain
    for route in ("/generate", "/"):
        for fields in ({}, {"parameters": None}, {"parameters": {}, "stream": None}, {"made_up": 1}):
            assert live.client.post(route, json={"inputs": PROMPTS[0]} | fields).status_code == 200
    assert events(live.client.post("/generate_stream", json={"inputs": PROMPTS[0], "parameters": None}))
    assert text(generate(live, adapter_id=None, adapter_source="hub")) == plain


def test_no_type_fails_the_server(live: Live) -> None:
    strange: list[Any] = [True, -1, 1.5, 10**30, "", "9" * 5000, [1], [[True]], {"a": [{}]}]
    for name in sorted(set(Parameters.model_fields) | FOLLOWED.keys()):
        for value in strange:
            answer = generate(live, **{name: value})
            assert answer.status_code in (200, 422, 424), (name, value, answer.text)
            assert answer.status_code == 200 or set(answer.json()) == {"error", "error_type"}
    for name in GenerateBody.model_fields:
        for value in strange:
            answer = live.client.post("/generate", json={"inputs": PROMPTS[0]} | {name: value})
            assert answer.status_code in (200, 422), (name, value, answer.text)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"typical_p": 0.9}, "'typical_p' is not supported"),
        ({"watermark": True}, "'watermark'"),
        ({"prompt_logprobs": 1}, "use 'decoder_input_details'"),
        ({"best_of": 2}, "'best_of'"),
        ({"n": 2}, "'n' is not supported"),
        ({"logprobs": 3}, "'logprobs'"),
        ({"apply_chat_template": True}, "'apply_chat_template'"),
        ({"max_tokens": 3}, "use 'max_new_tokens'"),
        ({"return_k_alternatives": -1}, "return_k_alternatives"),
        ({"top_n_tokens": 30}, "top_n_tokens"),
        ({"truncate": 0}, "truncate"),
        ({"grammar": {"type": "xml", "value": "x"}}, "xml"),
        ({"temperature": "1"}, "parameters.temperature"),
        ({"ignore_eos_token": 1}, "parameters.ignore_eos_token"),
        ({"do_sample": "yes"}, "do_sample"),
        ({"adapter_id": "x", "adapter_source": "hub"}, "adapter_source"),
    ],
)
def test_what_is_not_followed_is_refused_by_name(live: Live, parameters: dict[str, Any], message: str) -> None:
    answer = generate(live, **parameters)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error_type"] == "validation"
    assert message in answer.json()["error"]
    flat = live.client.post("/generate", json={"inputs": PROMPTS[0]} | parameters)
    assert flat.status_code in (200, 422)


def test_parameters_outside_their_object_are_refused(live: Live) -> None:
    answer = live.client.post("/generate", json={"inputs": PROMPTS[0], "max_new_tokens": 3})
    assert answer.status_code == 422
    assert "'max_new_tokens'" in answer.json()["error"]


def test_penalties_lengths_and_ends(live: Live) -> None:
    own = {"max_new_tokens": 8, "include_stop": True, "ignore_eos": True}
    whole = live.outputs("base", PROMPTS[0], **own)[0]
    for asked in (
        {"frequency_penalty": 2.0}, {"presence_penalty": 2.0}, {"repetition_penalty": 1.8},
        {"stop": [whole["text"][4:9]]}, {"stop_token_ids": [whole["tokens"][3]]}, {"min_tokens": 5},
        {"bad_words": whole["text"].split()[:2]},
    ):  # fmt: skip
        expected = live.outputs("base", PROMPTS[0], **own, **asked)[0]["text"]
        assert text(generate(live, max_new_tokens=8, ignore_eos_token=True, **asked)) == expected
    cut = live.outputs("base", PROMPTS[0], **own, truncate_prompt_tokens=3)[0]["text"]
    assert text(generate(live, max_new_tokens=8, ignore_eos_token=True, truncate=3)) == cut


def test_the_likeliest_in_each_place(live: Live) -> None:
    details = generate(live, details=True, top_n_tokens=2, return_k_alternatives=1, ignore_eos_token=True).json()[
        "details"
    ]
    logprobs = live.outputs("base", PROMPTS[0], max_new_tokens=6, ignore_eos=True, logprobs=2)[0]["logprobs"]
    for token, top, one in zip(details["tokens"], details["top_tokens"], logprobs, strict=True):
        assert [t["id"] for t in top] == [t["token"] for t in one["top"]]
        assert [t["id"] for t in token["alternative_tokens"]] == [one["top"][0]["token"]]
        assert all(set(t) == {"id", "text", "logprob", "special"} for t in top)
    body = {"inputs": PROMPTS[0], "parameters": {"max_new_tokens": 6, "top_n_tokens": 2, "ignore_eos_token": True}}
    streamed = events(live.client.post("/generate_stream", json=body))
    assert [one["top_tokens"] for one in streamed] == details["top_tokens"]
    assert "alternative_tokens" not in streamed[0]["token"]
