"""Structured output: JSON, a schema, one of some choices, an expression, a grammar."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from manyhats.engine.structured_output import Grammar
from manyhats.errors import InvalidRequest

from tests import tiny
from tests.api.live import Live, assert_error, serving

BACKBONE = "llama"


@pytest.fixture(scope="module")
def bytes_live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server whose backbone reads bytes, as structured output needs it."""
    base = tiny.write_byte_base(tmp_path_factory.mktemp("bytes"))
    with serving(tiny.load(base), tmp_path_factory.mktemp("store")) as running:
        yield running


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"enum": [1, 22, 333]}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def test_answers_of_a_form(bytes_live: Live) -> None:
    """A random model writes nothing sensible, but always what was asked for; also for several at once."""
    form = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
    for parameters in ({}, {"temperature": 1.5, "seed": 3, "n": 4}):
        (output,) = bytes_live.outputs("base", "a person", response_format=form, max_new_tokens=150, **parameters)
        for choice in output.get("choices", [output]):
            assert choice["finish_reason"] == "stop"
            person = json.loads(choice["text"])
            assert person.keys() == {"name", "age"}
            assert person["age"] in (1, 22, 333)
    (output,) = bytes_live.outputs("base", "x", regex="(ab|cd)+ [0-9]{3}", max_new_tokens=60, logit_bias={"5": -50})
    assert re.fullmatch("(ab|cd)+ [0-9]{3}", output["text"]) or output["finish_reason"] == "length"
    (output,) = bytes_live.outputs("base", "x", response_format={"type": "json_object"}, max_new_tokens=5)
    assert output["text"].startswith("{")
    with openai.OpenAI(base_url=f"http://{bytes_live.host}:{bytes_live.port}/v1", api_key="none") as client:
        answer = client.completions.create(
            model="base", prompt="a person", max_tokens=150, extra_body={"response_format": form}
        )
        assert json.loads(answer.choices[0].text).keys() == {"name", "age"}
    (bare,) = bytes_live.outputs("base", "x", response_format={"type": "text"}, max_new_tokens=5)
    assert bare == bytes_live.outputs("base", "x", max_new_tokens=5)[0]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"regex": "w("}, "not valid"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}}, "not valid"),
        ({"response_format": {"type": "xml"}}, "text, json_object, json_schema"),
        ({"response_format": {"type": "structural_tag", "structures": [], "triggers": []}}, "structural_tag"),
        ({"response_format": {"type": ["x"]}}, "these are"),
        ({"response_format": {"type": "regex"}}, "needs its text"),
        ({"response_format": {"type": "json_object", "schema": 3}}, "schema is an object"),
        ({"grammar": "start: ("}, "not valid"),
        ({"grammar": 'root ::= "a'}, "not valid: .*end of input"),
        ({"grammar": "root ::= x"}, "not valid: .*'x' not found"),
        ({"grammar": ""}, "not valid"),
        ({"grammar": "start: gen\ngen[temperature=0.5]: /.*/"}, "temperature is not supported"),
        ({"grammar": "root ::= " + "(" * 5000}, "not valid"),
        ({"grammar": 'root ::= "' + "a" * 30_000 + '"'}, "at most 20000"),
        ({"choice": ["a"], "grammar": "start: /b/"}, "one form"),
        ({"regex": r"[^\s\S]"}, "cannot be followed"),
        ({"grammar": "start: A\nA: /a*/ & /b+/"}, "cannot be followed"),
        ({"regex": "(a{1000}){1000}"}, "cannot be followed: .*too many"),
        ({"response_format": {"type": "json_schema"}}, "schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": 3}}}, "schema is an object"),
    ],
)
def test_forms_that_are_none(bytes_live: Live, parameters: dict[str, Any], message: str) -> None:
    assert_error(bytes_live.ask("base", "x", **parameters), 400, message)


def test_a_tokenizer_that_cannot_be_held_to_a_form(live: Live) -> None:
    assert_error(live.ask("base", "w1", regex="w1"), 400, "tokenizer of bytes or characters")


def test_one_of_some_choices(bytes_live: Live) -> None:
    """Exactly one of them, also where one begins as another does, or has quotes and characters of many bytes."""
    for choices in (["yes", "no"], ["a", "ab", "abc"], ['say "hi"\n\\', "naïve café", "🙂"], ["x"]):
        for sampling in ({}, {"temperature": 2.0, "n": 6, "seed": 3}):
            (output,) = bytes_live.outputs("base", "x", choice=choices, max_new_tokens=60, **sampling)
            for one in output.get("choices", [output]):
                assert one["text"] in choices
                assert one["finish_reason"] == "stop"
    drawn = bytes_live.outputs("base", "x", choice=["a", "ab", "abc"], temperature=3.0, n=32, seed=1)[0]["choices"]
    assert {one["text"] for one in drawn} == {"a", "ab", "abc"}


LARK = """
start: sum
sum: NUMBER (" + " NUMBER)*
NUMBER: /[0-9]{1,2}/
"""
GBNF = """
root ::= number (" + " number)*   # as llama.cpp writes it
number ::= [0-9] [0-9]?
"""


@pytest.mark.parametrize("grammar", [LARK, GBNF], ids=["lark", "gbnf"])
def test_grammars(bytes_live: Live, grammar: str) -> None:
    (output,) = bytes_live.outputs("base", "x", grammar=grammar, max_new_tokens=12, temperature=1.0, n=6, seed=2)
    for one in output["choices"]:
        pattern = r"\d{1,2}( \+ \d{1,2})*" if one["finish_reason"] == "stop" else r"(\d{1,2} \+ )*(\d{0,2}|\d{1,2} \+?)"
        assert re.fullmatch(pattern, one["text"]), one


def test_the_words_of_other_servers(bytes_live: Live) -> None:
    """The same form by each of its names gives the same text."""
    schema = json.dumps(SCHEMA)
    chosen, matched = {"choice": ["yes", "no"]}, {"regex": "(ab|cd) [0-9]{3}"}
    person = {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}}
    anything, summed = {"response_format": {"type": "json_object"}}, {"grammar": 'start: "a" "b"'}
    same = [
        (chosen, {"guided_choice": ["yes", "no"]}),
        (chosen, {"structured_outputs": {"choice": ["yes", "no"]}}),
        (matched, {"guided_regex": "(ab|cd) [0-9]{3}"}),
        (matched, {"regex": "(ab|cd) [0-9]{3}"}),
        (matched, {"structured_outputs": {"regex": "(ab|cd) [0-9]{3}", "choice": None}}),
        (matched, {"response_format": {"type": "regex", "value": "(ab|cd) [0-9]{3}"}}),
        (person, {"guided_json": SCHEMA}),
        (person, {"guided_json": schema}),
        (person, {"json_schema": schema}),
        (person, {"structured_outputs": {"json": schema, "disable_any_whitespace": True}}),
        (person, {"response_format": {"type": "json_schema", "schema": SCHEMA}}),
        (person, {"response_format": {"type": "json_object", "schema": SCHEMA}}),
        (anything, {"structured_outputs": {"json_object": True}}),
        (summed, {"guided_grammar": 'root ::= "a" "b"'}),
        (summed, {"structured_outputs": {"grammar": 'start: "a" "b"'}}),
        (summed, {"ebnf": 'root ::= "a" "b"'}),
    ]
    plain = {
        json.dumps(own): bytes_live.outputs("base", "x", max_new_tokens=40, **own)[0]["text"]
        for own in (chosen, matched, person, anything, summed)
    }
    for own, theirs in same:
        body = {"model": "base", "prompt": "x", "max_tokens": 40, "temperature": 0} | theirs
        answer = bytes_live.client.post("/v1/completions", json=body)
        assert answer.status_code == 200, (theirs, answer.text)
        assert answer.json()["choices"][0]["text"] == plain[json.dumps(own)], theirs
    for own, theirs in (
        (person, {"grammar": {"type": "json", "value": SCHEMA}}),
        (person, {"grammar": {"type": "json_schema", "value": {"name": "p", "schema": SCHEMA}}}),
        (matched, {"grammar": {"type": "regex", "value": "(ab|cd) [0-9]{3}"}}),
        (person, {"response_format": {"type": "json_object", "schema": SCHEMA}}),
        (chosen, {"guided_choice": ["yes", "no"]}),
    ):
        answer = bytes_live.client.post(
            "/generate", json={"inputs": "x", "parameters": {"max_new_tokens": 40} | theirs}
        )
        assert answer.status_code == 200, (theirs, answer.text)
        assert answer.json()["generated_text"] == plain[json.dumps(own)], theirs


def test_a_form_that_ends_before_the_least_length(bytes_live: Live) -> None:
    answer = bytes_live.ask("base", "x", choice=["yes", "no"], min_tokens=20)
    assert_error(answer, 400, "constraints leave no token")
    bytes_live.wait_idle()


def test_a_form_that_fails_later_fails_alone(bytes_live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others in the same pass go on."""
    whole = bytes_live.outputs("base", "ab", max_new_tokens=30)
    followed = Grammar.bitmask
    steps: list[int] = []

    def until_later(grammar: Grammar) -> Any:
        steps.append(1)
        if len(steps) > 6:
            raise InvalidRequest("the structured output cannot be followed: too large")
        return followed(grammar)

    monkeypatch.setattr(Grammar, "bitmask", until_later)
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(bytes_live.outputs, "base", "ab", max_new_tokens=30) for _ in range(3)]
        failed = pool.submit(bytes_live.ask, "base", "x", regex="[a-z]{20}", max_new_tokens=30)
        assert [other.result() for other in others] == [whole] * 3
        assert_error(failed.result(), 400, "cannot be followed: too large")
    bytes_live.wait_idle()
